"""Plugins: installed packages whose entry points name a module that registers backbones, data sets and so on.

In the `pyproject.toml` of such a package:

    [project.entry-points."poa_plugin.plugins"]
    my_name = "my_package"
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from poa_plugin.registry import ALL, PLUGINS, import_problem, importing

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
            leave_out(point.module, f"'{point.value}' cannot be imported: {import_problem(error)}")


def leave_out(package: str, reason: str) -> None:
    """Forget what a plugin has registered, so that it stops no command, and warn on stderr.

    Args:
        package: a member of `PLUGINS`.
        reason: the end of a sentence, without its period.
    """
    for registry in ALL:
        registry.forget(package)
    PLUGINS.remove(package)
    [point, *_] = (point for point in entry_points(group=GROUP) if point.module == package)
    distribution = f" of the distribution '{point.dist.name}'" if point.dist is not None else ""
    print(
        f"poa: warning: the plugin '{point.name}'{distribution} is left out: {reason}.",
        file=sys.stderr,
    )
