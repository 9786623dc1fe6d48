"""Elasticity: sub-networks as values, the one slicer, and layers that follow their input's width."""

from poa_plugin.elastic.subnet import SearchSpace, Subnet

__all__ = ["SearchSpace", "Subnet"]
