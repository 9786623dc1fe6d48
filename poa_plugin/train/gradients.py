"""The gradients of a step on several ranks: their sum, and which parameters have none; then clipping.

torch's DistributedDataParallel does neither here: it reduces nothing where the last backward pass of a step
skips a block, and rebuilds its buckets after the first step, so that a resumed run sums in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from poa_plugin import ranks
from poa_plugin.ssl.reduction import Reduction

BUCKET_BYTES = 25 << 20
"""Gradients that are sent at once."""


class ReplicaReduction(Reduction):
    """Sums the gradients of replicas after the last backward pass of a step, in fixed buckets.

    The loss of a shard is divided by the number of all shards, so the sum is the gradient of their mean. A
    gradient that is missing on all ranks remains None, since AdamW would decay a parameter whose gradient is
    zero; one that is missing on some ranks is zero there.

    Args:
        parameters: of the student, in an order that is the same on all ranks.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.buckets = buckets(self.parameters)

    def after_backward(self) -> None:
        """See `Reduction.after_backward`."""
        present = ranks.anywhere([p.grad is not None for p in self.parameters])
        for bucket in self.buckets:
            gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            ranks.add_up(flat)
            parts = flat.split([p.numel() for p in bucket])
            for p, gradient, part in zip(bucket, gradients, parts, strict=True):
                p.grad = gradient.copy_(part.view_as(p))
        remove_missing(self.parameters, present)


class ShardedReduction(Reduction):
    """Prepares backward passes of parameters that FSDP2 shards, which reduces their gradients in them.

    Args:
        roots: modules that `fully_shard` was applied to, each with modules inside that it was applied to.
        each_shard: whether gradients are reduced after each shard of a step; if not, they are kept whole on
            every rank, and reduced after the last one.
    """

    def __init__(self, roots: Sequence[nn.Module], each_shard: bool) -> None:
        self.roots, self.each_shard = roots, each_shard
        self.parameters = [p for root in roots for p in root.parameters()]
        self._present = [False] * len(self.parameters)
        for module in _sharded_modules(roots):
            module.set_gradient_divide_factor(1.0)  # the sum, as losses are divided already
            module.set_force_sum_reduction_for_comms(True)  # without a product that gloo lacks
            module.set_reduce_scatter_unused_params(True)  # else ranks would reduce different ones
        self._watch()

    def before_backward(self, is_last: bool) -> None:
        """See `Reduction.before_backward`."""
        for root in self.roots:
            root.set_requires_gradient_sync(is_last or self.each_shard)  # type: ignore[operator]

    def after_backward(self) -> None:
        """See `Reduction.after_backward`."""
        remove_missing(self.parameters, ranks.anywhere(self._present))
        self._present = [False] * len(self.parameters)

    def _watch(self) -> None:
        """Note which parameters get a gradient: FSDP2 gives zeros to those that get none."""
        for module in _sharded_modules(self.roots):
            module.unshard()
        whole = [p for root in self.roots for p in root.parameters()]
        for number, parameter in enumerate(whole):

            def note(_: Tensor, number: int = number) -> None:
                self._present[number] = True

            parameter.register_post_accumulate_grad_hook(note)
        for module in _sharded_modules(self.roots):
            module.reshard()


def buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return parameters in their order, in lists of one type and of at most `BUCKET_BYTES`, or of one."""
    lists: list[list[nn.Parameter]] = []
    for _, of_type in groupby(parameters, key=lambda p: (p.dtype, p.device)):
        size = BUCKET_BYTES
        for parameter in of_type:
            size += parameter.nbytes
            if size > BUCKET_BYTES:
                lists.append([])
                size = parameter.nbytes
            lists[-1].append(parameter)
    return lists


def remove_missing(parameters: Sequence[nn.Parameter], present: Sequence[bool]) -> None:
    """Set the gradients to None that no shard of any rank has."""
    for parameter, is_present in zip(parameters, present, strict=True):
        if not is_present:
            parameter.grad = None


def clip_gradients(student: nn.ModuleDict, max_norm: float) -> dict[str, Tensor]:
    """Clip each sub-module's gradient to `max_norm` by itself; return the norms before clipping.

    0 or less clips nothing.
    """
    limit = max_norm if max_norm > 0 else float("inf")
    norms = {
        name: nn.utils.clip_grad_norm_(module.parameters(), limit, foreach=True)
        for name, module in student.items()
    }
    return {
        name: norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
        for name, norm in norms.items()
    }


def unscale(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """Divide gradients by the scale, and tell all ranks whether one overflowed: each may have another part."""
    scaler.unscale_(optimizer)
    for overflowed in scaler._found_inf_per_device(optimizer).values():
        ranks.take_largest(overflowed)


def _sharded_modules(roots: Sequence[nn.Module]) -> list:
    from torch.distributed.fsdp import FSDPModule

    return [m for root in roots for m in root.modules() if isinstance(m, FSDPModule)]
