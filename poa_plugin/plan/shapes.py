"""Tensors that have a shape and no numbers, and a meter of the memory and the work that they stand for.

They claim to lie on the CPU, so that autocast and autograd treat them as the tensors of a training, and compute
on the meta device. torch's FakeTensor does the same for more kinds of programs, at several times the cost of an
operation, and cannot take what a model computes from real tensors (Swin's tables of windows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from poa_plugin.backbones.attention import xformers_kernel
from poa_plugin.evaluate.memory import LiveBytes

META = torch.device("meta")


def _attention_work(
    q: Tensor, k: Tensor, v: Tensor, *_: object, out_val: object = None, **__: object
) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))


def _attention_backward_work(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object, out_val: object = None, **__: object
) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))


_WORK: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_work,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_work,
}
"""What torch's counter does not know."""


_IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]


class Meter(LiveBytes):
    """Counts live bytes and FLOPs of `ShapeTensor`s by what was set as `label` when they were made.

    Attributes:
        label: of what is made from now on.
        by_label: live bytes.
        at_peak: `by_label` when the most bytes were live.
        flops: multiplications and additions of matrix products and convolutions, by label.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = ""
        self.by_label: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self._label_of: dict[int, str] = {}

    def restart_peak(self) -> None:
        """Look for the peak anew, from what is live now."""
        self.peak, self.at_peak = self.bytes, Counter(self.by_label)

    def relabel(self, tensor: Tensor, label: str) -> None:
        """Count a tensor that is live under another label."""
        storage = tensor.shapes.untyped_storage() if isinstance(tensor, ShapeTensor) else None
        if storage is not None and storage._cdata in self._label_of:
            key, size = storage._cdata, storage.nbytes()
            self.by_label[self._label_of[key]] -= size
            self.by_label[label] += size
            self._label_of[key] = label

    def relabel_all(self, label: str) -> None:
        """Count all that is live under another label."""
        self.by_label = Counter({label: self.bytes})
        self._label_of = dict.fromkeys(self._label_of, label)

    def added(self, key: int, size: int) -> None:
        """See `LiveBytes.added`."""
        self._label_of[key] = self.label
        self.by_label[self.label] += size
        if self.bytes >= self.peak:
            self.at_peak = Counter(self.by_label)

    def removed(self, key: int, size: int) -> None:
        """See `LiveBytes.removed`."""
        self.by_label[self._label_of.pop(key)] -= size


class ShapeTensor(Tensor):
    """A tensor without numbers that claims to be on the CPU.

    Attributes:
        shapes: the tensor on the meta device that it stands for.
    """

    meter: ClassVar[Meter | None] = None
    on_gpu: ClassVar[bool] = False

    shapes: Tensor

    @staticmethod
    def __new__(cls, shapes: Tensor) -> ShapeTensor:
        """Wrap a tensor on the meta device."""
        made: ShapeTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            shapes.shape,
            strides=shapes.stride(),
            storage_offset=shapes.storage_offset(),
            dtype=shapes.dtype,
            device=torch.device("cpu"),
        )
        made.shapes = shapes
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; a GPU's attention keeps the same, whatever it adds to the logits."""
        if cls.on_gpu and func == _IS_CUDA:
            return True
        if cls.on_gpu and func is F.scaled_dot_product_attention:
            args, kwargs = args[:3], {}
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on shapes alone, and count what it makes."""
        inputs = tuple(map(_unwrapped, args))
        kwargs = {name: _unwrapped(value) for name, value in (kwargs or {}).items()}
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        returns = func._schema.returns
        in_place = bool(returns) and _writes(returns[0])
        out = args[0] if in_place and args else _result(func, inputs, kwargs)
        if cls.meter is not None:
            work = _WORK.get(func.overloadpacket) or flop_registry.get(func.overloadpacket)
            if work is not None:
                cls.meter.flops[cls.meter.label] += work(*inputs, **kwargs, out_val=out)
        return out if in_place else _wrapped(out, None if _is_view(func) else cls.meter)


class Recomputation(TorchFunctionMode):
    """Does in a backward pass, in which torch calls no `ShapeTensor.__torch_function__`, what that does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        if any(isinstance(x, ShapeTensor) for x in args):
            return ShapeTensor.__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


_RESULTS: dict[Any, Any] = {}
"""Layouts of the results of operations by what they depend on: a network is the same block again and again."""


def _result(func: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an operation makes of tensors on the meta device."""
    if _is_view(func):
        return func(*inputs, **kwargs)
    key = (func, _layout(inputs), _layout(list(kwargs.items())))
    if key not in _RESULTS:
        out = func(*inputs, **kwargs)
        _RESULTS[key] = None if _shares_memory(out, inputs) else _layout(out)
        return out
    layout = _RESULTS[key]
    return func(*inputs, **kwargs) if layout is None else _made(layout)


class _Layout(NamedTuple):
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Layout(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(map(_layout, value))
    return (type(value), value)  # 1 equals True and 1.0, and makes another type of tensor


def _made(layout: Any) -> Any:
    if isinstance(layout, _Layout):
        return torch.empty_strided(layout.size, layout.stride, dtype=layout.dtype, device=META)
    if layout and isinstance(layout[0], type):
        return layout[1]
    return tuple(map(_made, layout))


def _shares_memory(out: Any, inputs: Any) -> bool:
    """Tell whether an operation returned an input after all, as `_unsafe_view` does without saying so."""
    storages = [
        {x.untyped_storage()._cdata for x in tree_leaves(y) if isinstance(x, Tensor)}
        for y in (out, inputs)
    ]
    return bool(storages[0] & storages[1])


def _is_view(func: Any) -> bool:
    return any(returned.alias_info is not None for returned in func._schema.returns)


def _writes(returned: Any) -> bool:
    return returned.alias_info is not None and returned.alias_info.is_write


def _unwrapped(value: Any) -> Any:
    if isinstance(value, ShapeTensor):
        return value.shapes
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrapped, value))
    return value


def _wrapped(value: Any, meter: Meter | None) -> Any:
    if isinstance(value, Tensor):
        if meter is not None:
            meter.count(value)
        return ShapeTensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_wrapped(item, meter) for item in value)
    return value


@contextmanager
def as_on_gpu(on: bool) -> Iterator[None]:
    """Have attention choose the kernel that it has on a GPU.

    Where xFormers is installed, attention is a CPU's all the same: its kernels take no such tensors. That keeps
    as much in ViTs, and more in Swins.
    """
    before, ShapeTensor.on_gpu = ShapeTensor.on_gpu, on and xformers_kernel() is None
    try:
        yield
    finally:
        ShapeTensor.on_gpu = before


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what is made of `ShapeTensor`s meanwhile."""
    before, ShapeTensor.meter = ShapeTensor.meter, Meter()
    try:
        yield ShapeTensor.meter
    finally:
        ShapeTensor.meter = before


def without_numbers(module: nn.Module) -> None:
    """Turn the parameters and buffers of a module on the meta device into `ShapeTensor`s."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                shapes = ShapeTensor(parameter.detach())
                part._parameters[name] = nn.Parameter(shapes, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = ShapeTensor(buffer)
