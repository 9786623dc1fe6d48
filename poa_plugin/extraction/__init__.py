"""Extraction: a sub-network becomes an ordinary model."""
