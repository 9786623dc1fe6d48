"""Importing this module registers what a configuration can name, and what is known of it in other libraries.

That is what the package ships, and then what installed plugins register.
"""

from __future__ import annotations

from poa_plugin import backbones, data, formats, loggers, ssl
from poa_plugin.plugins import load_plugins

__all__ = ["backbones", "data", "formats", "loggers", "ssl"]

load_plugins()
