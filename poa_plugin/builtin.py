"""Importing this module registers what the package ships: backbones, data sets, meta-architectures, formats."""

from __future__ import annotations

from poa_plugin import backbones, data, ssl
from poa_plugin.extract import export

__all__ = ["backbones", "data", "export", "ssl"]
