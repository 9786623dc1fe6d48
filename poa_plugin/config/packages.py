"""What a configuration needs of other packages: those it uses are named in it, and nothing of the others."""

from __future__ import annotations

from omegaconf import DictConfig, open_dict

from poa_plugin import registry
from poa_plugin.config.interpolation import unresolved_values
from poa_plugin.config.keys import Section
from poa_plugin.config.ranges import REGISTRIES


def add_plugins(config: DictConfig, tree: Section) -> None:
    """Name under `imports` the plugins whose backbone, data set, loss terms and so on a configuration uses.

    So a run records what it needs, and can be read where that package is on the path and not installed.
    """
    for key, value in unresolved_values(config, tree):
        if not key.declared.registry:
            continue
        _, names = REGISTRIES[key.declared.registry]
        for name in value if isinstance(value, list) else [value]:
            package = names.package_of(str(name))
            roots = {listed.split(".")[0] for listed in config.imports}
            if package in registry.PLUGINS and package.split(".")[0] not in roots:
                config.imports.append(package)


def remove_unused(config: DictConfig) -> None:
    """Remove the sections of backbones and loggers that come with other packages and are not chosen."""
    sections = (
        (config.student, registry.BACKBONES, [config.student.get("arch")]),
        (config.train.logger_options, registry.LOGGERS, config.train.loggers or []),
    )
    for section, names, used in sections:
        with open_dict(section):
            for name in names.names():
                if name not in used and names.package_of(name) is not None:
                    section.pop(name, None)
