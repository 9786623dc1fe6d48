"""Vision transformers: ordinary, elastic, and their options."""
