"""Registries: the names that a configuration may use, open to other packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fvcore.common.registry import Registry as FvcoreRegistry

from poa_plugin.errors import UserError, did_you_mean

T = TypeVar("T")
PLUGINS: list[str] = []
"""The packages that entry points have loaded; see `plugins`."""
_importing: list[str] = []
"""The packages that are being imported to register something, the innermost last."""


class Registry(FvcoreRegistry):
    """An fvcore registry whose unknown names end in a sentence that gives the nearest known one."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._packages: dict[str, str] = {}

    def register_as(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def register(item: T) -> T:
            self._do_register(name, item)
            module = str(getattr(item, "__module__", "__main__"))
            if not module.startswith("poa_plugin."):
                self._packages[name] = _importing[-1] if _importing else module
            return item

        return register

    def names(self) -> list[str]:
        """Return the registered names in alphabetical order."""
        return sorted(name for name, _ in self)

    def package_of(self, name: str) -> str | None:
        """Return the package to import for a name; None for what comes with poa_plugin, or from a script.

        It is the package of an entry point, or under `imports:`, whose import registered the name. If other
        code imported it first, it is the module in which the item is defined.
        """
        package = self._packages.get(name) if name in self else None
        if package is None or package == "__main__":
            return None
        within = (plugin for plugin in PLUGINS if f"{package}.".startswith(f"{plugin}."))
        return next(within, package)

    def forget(self, package: str) -> None:
        """Remove what the import of a package has registered."""
        for name in [name for name in self.names() if self.package_of(name) == package]:
            del self._obj_map[name], self._packages[name]

    def get(self, name: str) -> Any:
        """Return what is registered under `name`.

        Raises:
            UserError: the name is unknown.
        """
        if name not in self:
            raise UserError(f"Unknown {self._name} '{name}': {did_you_mean(name, self.names())}.")
        return super().get(name)


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Note that what is registered meanwhile comes from a package."""
    _importing.append(package)
    try:
        yield
    finally:
        _importing.pop()


BACKBONES = Registry("backbone")
META_ARCHS = Registry("meta-architecture")
DATASETS = Registry("data set")
EXPORTERS = Registry("export format")
FORMATS = Registry("family of networks in other libraries")
LOGGERS = Registry("logger")
LOSS_TERMS = Registry("loss term")
PROTOCOLS = Registry("evaluation protocol")
ALL = (BACKBONES, META_ARCHS, DATASETS, EXPORTERS, FORMATS, LOGGERS, LOSS_TERMS, PROTOCOLS)


def import_packages(names: Iterable[str], where: str) -> None:
    """Import packages that register backbones, data sets and the like.

    Args:
        names: importable modules.
        where: what names them, for messages.

    Raises:
        UserError: one cannot be imported, or fails or exits while it is.
    """
    for name in names:
        try:
            with importing(name):
                importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"The package '{name}' under {where} cannot be imported: {import_problem(error)}."
            ) from error


def import_problem(error: BaseException) -> str:
    """Return why a package cannot be imported, on one line and without a period."""
    reason = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    return " ".join(str(reason).split()).rstrip(".")
