"""Plugins: installed packages whose entry points name a module that registers backbones, data sets and so on.

In the `pyproject.toml` of such a package:

    [project.entry-points."poa_plugin.plugins"]
    my_name = "my_package"
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

from poa_plugin.registry import PLUGINS, import_problem, importing

GROUP = "poa_plugin.plugins"


def load_plugins() -> None:
    """Import every plugin that is installed; one that fails is left out, with a warning on stderr."""
    for point in entry_points(group=GROUP):
        if point.module in PLUGINS:
            continue
        PLUGINS.append(point.module)
        try:
            with importing(point.module):
                point.load()
        except (Exception, SystemExit) as error:
            PLUGINS.remove(point.module)
            print(
                f"poa: warning: {_described(point)} is left out: '{point.value}' cannot be imported: "
                f"{import_problem(error)}.",
                file=sys.stderr,
            )


def _described(point: EntryPoint) -> str:
    distribution = f" of the distribution '{point.dist.name}'" if point.dist is not None else ""
    return f"the plugin '{point.name}'{distribution}"
