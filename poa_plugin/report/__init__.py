"""Showing results: tables, plots and the page about a run."""
