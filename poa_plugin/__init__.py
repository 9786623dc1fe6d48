"""POA: pre-train one elastic network, take out models of all sizes.

Public, and kept from release to release: what `__all__` lists, the command line, configuration keys,
the parameter names of networks, and the files of an extracted network.
"""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("poa-plugin")

from poa_plugin.config.load import load_config
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError
from poa_plugin.extract import extract, load, to_timm
from poa_plugin.ssl import build_backbone

__all__ = [
    "SearchSpace",
    "Subnet",
    "UserError",
    "__version__",
    "build_backbone",
    "extract",
    "load",
    "load_config",
    "to_timm",
]
