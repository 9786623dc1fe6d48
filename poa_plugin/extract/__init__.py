"""Extraction: a sub-network becomes an ordinary model."""

from poa_plugin.extract.network import extract, load, load_heads, write_network
from poa_plugin.extract.run import Run, open_run
from poa_plugin.extract.to_timm import to_timm

__all__ = ["Run", "extract", "load", "load_heads", "open_run", "to_timm", "write_network"]
