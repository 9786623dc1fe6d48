"""The base of networks with one width and one stack of equal blocks: ordinary, elastic, and their options."""
