"""Importing this module registers what the package ships, from backbones to loggers."""

from __future__ import annotations

from poa_plugin import backbones, data, ssl
from poa_plugin.extract import export
from poa_plugin.train import loggers

__all__ = ["backbones", "data", "export", "loggers", "ssl"]
