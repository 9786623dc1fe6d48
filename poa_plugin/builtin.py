"""Importing this module registers what a configuration can name, and what is known of it in other libraries."""

from __future__ import annotations

from poa_plugin import backbones, data, formats, loggers, ssl

__all__ = ["backbones", "data", "formats", "loggers", "ssl"]
