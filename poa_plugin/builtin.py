"""Importing this module registers what the package ships: backbones, data sets, meta-architectures, formats."""

from __future__ import annotations

from poa_plugin import backbones, data, export, ssl

__all__ = ["backbones", "data", "export", "ssl"]
