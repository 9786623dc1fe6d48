"""Extraction: a sub-network becomes an ordinary model."""

from poa_plugin.extract.network import extract, load, load_heads, write_network
from poa_plugin.extract.run import Run, open_run

__all__ = ["Run", "extract", "load", "load_heads", "open_run", "write_network"]
