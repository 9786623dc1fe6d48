"""A run's folder: opening it, and its results."""
