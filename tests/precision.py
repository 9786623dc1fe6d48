"""What half precision meets on a GPU, checked on a CPU.

A CPU accepts operations whose operands have different floating types, which CUDA kernels refuse, and its
autocast converts for fewer operations than CUDA's. `RefuseMixedTypes` raises where CUDA would;
`CudaAutocast` converts as CUDA's autocast does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OPERANDS: dict[str, Sequence[int]] = {
    "native_layer_norm": (0, 2, 3),
    "native_layer_norm_backward": (0, 1, 5, 6),
    "native_group_norm": (0, 1, 2),
    "native_group_norm_backward": (0, 1, 4),
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (0, 1, 2),
    "baddbmm": (0, 1, 2),
    "convolution": (0, 1, 2),
    "convolution_backward": (0, 1, 2),
    "_scaled_dot_product_flash_attention_for_cpu": (0, 1, 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (0, 1, 2, 3, 4),
    "_scaled_dot_product_attention_math_for_mps": (0, 1, 2, 3),
    "_softmax_backward_data": (0, 1),
    "_log_softmax_backward_data": (0, 1),
    "_weight_norm_interface": (0, 1),
    "_weight_norm_interface_backward": (0, 1, 2),
    "gelu_backward": (0, 1),
    "index_add": (0, 3),
    "index_add_": (0, 3),
    "index_copy_": (0, 3),
    "lerp": (0, 1),
}
"""Operations that CUDA runs on operands of one floating type only, and where those stand."""
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward")


class RefuseMixedTypes(TorchDispatchMode):
    """Raises where an operation gets operands of two floating types, in forward and backward passes.

    Attributes:
        products: how many products of matrices there were, by type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        operands = [args[i] for i in OPERANDS.get(name, ()) if i < len(args)]
        kinds = {x.dtype for x in operands if isinstance(x, Tensor) and x.is_floating_point()}
        if len(kinds) > 1:
            shapes = [(tuple(x.shape), x.dtype) for x in operands if isinstance(x, Tensor)]
            raise AssertionError(f"{name} is given several types: {shapes}")
        if name in PRODUCTS:
            self.products.update(kinds)
        return func(*args, **(kwargs or {}))


class CudaAutocast(TorchFunctionMode):
    """On a CPU, converts for the operations that autocast runs in float32 on CUDA; tensors say `is_cuda`.

    Of CUDA's list (torch's documentation, "CUDA Ops that can autocast to float32") it knows those that
    networks and losses use.
    """

    FLOAT32: frozenset[Callable[..., Any]] = frozenset(
        (
            *(F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm),
            *(F.softmax, torch.softmax, Tensor.softmax, torch.logsumexp),
            *(F.log_softmax, torch.log_softmax, Tensor.log_softmax),
            *(torch.norm, Tensor.norm, torch.linalg.vector_norm, F.cosine_similarity),
            *(torch.sum, Tensor.sum, torch.exp, Tensor.exp, torch.log, Tensor.log),
            *(torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt),
            *(torch.prod, Tensor.prod, torch.cumsum, Tensor.cumsum, F.pairwise_distance),
        )
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.is_cuda.__get__:
            return True
        if func in self.FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_whole, (tuple(args), kwargs or {}))
        return func(*args, **(kwargs or {}))


def _whole(x: Any) -> Any:
    is_half = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if is_half else x


POLICIES: Mapping[str, Sequence[type[TorchFunctionMode]]] = {"cpu": (), "cuda": (CudaAutocast,)}
"""Whose list of operations autocast follows."""


@contextmanager
def one_type_each(policy: str) -> Iterator[RefuseMixedTypes]:
    """Run under one of `POLICIES`, refusing what CUDA refuses."""
    with ExitStack() as stack:
        for mode in POLICIES[policy]:
            stack.enter_context(mode())
        yield stack.enter_context(RefuseMixedTypes())


def watch_residuals(modules: Mapping[str, nn.Module]) -> list[tuple[str, torch.dtype]]:
    """Return a list that takes the types of what modules are given and put out, as they run."""
    seen: list[tuple[str, torch.dtype]] = []
    for name, module in modules.items():

        def note(module: nn.Module, given: Any, out: Any, name: str = name) -> None:
            for x in tree_leaves((given, out)):
                if isinstance(x, Tensor) and x.is_floating_point():
                    seen.append((name, x.dtype))

        module.register_forward_hook(note)
    return seen
