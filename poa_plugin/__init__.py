"""POA: pre-train one elastic network, take out models of all sizes.

Public, and kept from release to release: what `__all__` lists, `poa_plugin.testing`, the command line,
configuration keys, the entry points of plugins, the parameter names of networks, and the files of an extracted
network.

The names are loaded when they are first used: importing the package, or asking a command for its help,
loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poa_plugin.backbones.build import build_backbone
    from poa_plugin.config.load import load_config
    from poa_plugin.elastic.subnet import SearchSpace, Subnet
    from poa_plugin.errors import UserError
    from poa_plugin.export.to_timm import to_timm
    from poa_plugin.extraction.network import extract, load
    from poa_plugin.extraction.write import write_all_networks, write_networks
    from poa_plugin.runs.run import Run, open_run
    from poa_plugin.version import __version__

__all__ = [
    "Run",
    "SearchSpace",
    "Subnet",
    "UserError",
    "__version__",
    "build_backbone",
    "extract",
    "load",
    "load_config",
    "open_run",
    "to_timm",
    "write_all_networks",
    "write_networks",
]

_MODULES = {
    "Run": "poa_plugin.runs.run",
    "SearchSpace": "poa_plugin.elastic.subnet",
    "Subnet": "poa_plugin.elastic.subnet",
    "UserError": "poa_plugin.errors",
    "__version__": "poa_plugin.version",
    "build_backbone": "poa_plugin.backbones.build",
    "extract": "poa_plugin.extraction.network",
    "load": "poa_plugin.extraction.network",
    "load_config": "poa_plugin.config.load",
    "open_run": "poa_plugin.runs.run",
    "to_timm": "poa_plugin.export.to_timm",
    "write_all_networks": "poa_plugin.extraction.write",
    "write_networks": "poa_plugin.extraction.write",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
