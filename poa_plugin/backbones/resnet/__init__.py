"""ResNets: ordinary, elastic, and their options."""
