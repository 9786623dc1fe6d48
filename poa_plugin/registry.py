"""Registries: the names that a configuration may use, open to other packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fvcore.common.registry import Registry as FvcoreRegistry

from poa_plugin.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(FvcoreRegistry):
    """An fvcore registry whose unknown names end in a sentence that gives the nearest known one."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)

    def register_as(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def register(item: T) -> T:
            self._do_register(name, item)
            return item

        return register

    def names(self) -> list[str]:
        """Return the registered names in alphabetical order."""
        return sorted(name for name, _ in self)

    def get(self, name: str) -> Any:
        """Return what is registered under `name`.

        Raises:
            UserError: the name is unknown.
        """
        if name not in self:
            raise UserError(f"Unknown {self._name} '{name}': {did_you_mean(name, self.names())}.")
        return super().get(name)


BACKBONES = Registry("backbone")
META_ARCHS = Registry("meta-architecture")
DATASETS = Registry("data set")
EXPORTERS = Registry("export format")
FORMATS = Registry("family of networks in other libraries")
LOGGERS = Registry("logger")
LOSS_TERMS = Registry("loss term")
PROTOCOLS = Registry("evaluation protocol")


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
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            reason = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
            raise UserError(
                f"The package '{name}' under {where} cannot be imported: {' '.join(str(reason).split())}."
            ) from error
