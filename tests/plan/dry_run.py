"""A step of one of 32 ranks without the others: tensors without numbers, and collectives that move nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from poa_plugin import ranks
from poa_plugin.config.schema import Config
from poa_plugin.plan.shapes import ShapeTensor
from poa_plugin.plan.trace import meta_model, shard_batch
from poa_plugin.ssl import POA
from poa_plugin.train.parallel import distribute

RANKS = 32


class Collectives(TorchDispatchMode):
    """Notes what FSDP2 gathers and reduces.

    Attributes:
        bytes: of whole tensors, by collective, in their order.
        most_whole: bytes of whole weights and of the buffer they are copied from, at the most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, list[int]] = {"gather": [], "reduce_scatter": []}
        self.most_whole = 0
        self._weights: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it moves."""
        out = func(*args, **(kwargs or {}))
        name = str(func)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name.startswith("c10d."):
            kind = "reduce_scatter" if "reduce_scatter" in name else "gather"
            self.bytes[kind].append(max(x.nbytes for x in tensors))
        if name.startswith("fsdp.split_with_sizes_copy"):
            self._weights |= {
                x.untyped_storage()._cdata: x.untyped_storage() for x in kwargs["out"]
            }
            whole = sum(storage.nbytes() for storage in self._weights.values())
            self.most_whole = max(self.most_whole, whole + args[0].nbytes)
        return out


class DryRun:
    """A model on one of the ranks, sharded by FSDP2.

    Args:
        config: a resolved configuration.
        fake: makes tensors without numbers.
    """

    def __init__(self, config: Config, fake: FakeTensorMode) -> None:
        self.config, self.fake = config, fake
        self.model: POA = meta_model(config).train()
        self.parameters = sum(p.numel() for p in self.model.student.parameters())
        with fake:
            _make_fake(self.model)
            distribute(self.model, "fsdp2")

    def local_bytes(self) -> int:
        """Return the bytes of the student's weights on this rank."""
        return sum(p.to_local().nbytes for p in self.model.student.parameters())  # type: ignore[attr-defined]

    def gather(self, module: nn.Module) -> int:
        """Gather the weights of a module that is sharded; return the bytes that are gathered."""
        with self.fake, Collectives() as seen:
            module.unshard()  # type: ignore[operator]
            module.reshard()  # type: ignore[operator]
        return sum(seen.bytes["gather"])

    def step(self) -> Collectives:
        """Run the passes of this rank's shards."""
        shards = self.config.train.shards // RANKS
        train = self.config.train
        self.model.steps_taken = self.config.ibot.start_epoch * train.OFFICIAL_EPOCH_LENGTH
        batch = shard_batch(self.config, self.model)
        subnets = [list(self.model.space)[-2]] * shards
        with self.fake:
            fake = {k: _empty(x) if type(x) is ShapeTensor else x for k, x in batch.items()}
            with Collectives() as seen:
                self.model.forward_backward([fake] * shards, 0.05, subnets)
        return seen


@contextmanager
def one_of_many(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Make this process rank 0 of many that do not exist.

    A mesh and flags that ranks exchange are made of numbers, which these tensors do not have.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    try:
        mesh = device_mesh.init_device_mesh("cpu", (RANKS,))
        monkeypatch.setattr(device_mesh, "init_device_mesh", lambda *_, **__: mesh)
        monkeypatch.setattr(ranks, "anywhere", list)
        yield FakeTensorMode(allow_non_fake_inputs=True)
    finally:
        dist.destroy_process_group()


def _make_fake(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = nn.Parameter(_empty(parameter), parameter.requires_grad)
                module._parameters[name] = made
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _empty(buffer)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)
