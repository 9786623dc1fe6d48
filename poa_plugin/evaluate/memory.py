"""How much memory tensors take while something runs."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes:
    """Counts the bytes of tensors while they live.

    Attributes:
        bytes: of the tensors that live now.
        peak: the most that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, weakref.finalize[..., Any]] = {}

    def count(self, tensor: Tensor) -> None:
        """Count the memory of a tensor, once however many tensors are views of it, until it is freed."""
        storage = tensor.untyped_storage()
        key = _storage(tensor)
        if key in self._known:
            return
        size = storage.nbytes()
        self.bytes += size
        self.added(key, size)
        self.peak = max(self.peak, self.bytes)
        self._known[key] = weakref.finalize(storage, self._forget, key, size)

    def added(self, key: int, size: int) -> None:
        """Note that memory is counted from now on; does nothing here."""

    def removed(self, key: int, size: int) -> None:
        """Note that memory was freed; does nothing here."""

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.bytes -= size
        self.removed(key, size)


class PeakMemory(LiveBytes, TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it, on any device, while they live.

    What an operation needs within itself is not seen.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it returns."""
        before = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _storage(leaf) not in before:
                self.count(leaf)
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
