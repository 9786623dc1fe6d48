"""Importing this module registers every backbone, data set and meta-architecture that the package ships."""

from __future__ import annotations

from poa_plugin import backbones, data, ssl

__all__ = ["backbones", "data", "ssl"]
