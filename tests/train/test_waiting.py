"""A step waits for the device once, to learn whether all is finite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from poa_plugin.config.load import default_config
from poa_plugin.crops import masked_patches
from poa_plugin.ssl import POA
from poa_plugin.testing import random_batch
from poa_plugin.train.gradients import clip_gradients
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step
from tests.conftest import FAMILIES

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
DROP_PATH = {
    "vit": ["student.vit.drop_path_rate=0.4"],
    "swin": ["student.swin.drop_path_rate=0.4"],
    "resnet": [],
}
SMALLER = {"resnet": ["crops.global_crops_size=32"]}
"""Convolutions in half precision are slow on a CPU."""


class Waits(TorchDispatchMode):
    """Counts operations whose result the host has to know, and copies to another device that block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS:
            self.seen[name] += 1
        if name in INDEXING and any(
            isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        ):
            self.seen["boolean indexing"] += 1
        target = kwargs.get("device")
        if name == "_to_copy" and target is not None and target != args[0].device:
            self.seen["copies"] += 1
            self.seen["blocking copies"] += not kwargs.get("non_blocking", False)
        if name == "copy_" and args[0].device != args[1].device:
            self.seen["copies"] += 1
            self.seen["blocking copies"] += not (len(args) > 2 and args[2])
        return func(*args, **kwargs)


class Lists(TorchFunctionMode):
    """Counts what reads numbers without an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            self.seen[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def batches_of(model: POA) -> list[dict[str, Tensor]]:
    """Return two shards as the loader makes them, on the CPU."""
    batches = []
    for seed in (1, 2):
        batch = random_batch(model.config, seed)
        indices, weights = masked_patches(batch["collated_masks"])
        for kind in ("collated_global_crops", "collated_local_crops"):
            batch[kind] = batch[kind].mul(40).add(128).clamp(0, 255).to(torch.uint8)
        batches.append({**batch, "mask_indices_list": indices, "masks_weight": weights})
    return batches


@pytest.mark.parametrize(
    ("chunk", "precision", "centering"),
    [("5", "fp32", "sinkhorn_knopp"), ("null", "fp16", "centering")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_once(family: str, chunk: str, precision: str, centering: str) -> None:
    overrides = [f"train.prototype_chunk={chunk}", f"train.precision={precision}"]
    overrides += [
        f"train.centering={centering}",
        "train.batch_size_per_shard=2",
        *DROP_PATH[family],
        *SMALLER.get(family, []),
    ]
    config = default_config([*FAMILIES[family], *overrides])
    model = build_model(config).train()
    if model.fp16_scaler is not None:
        model.fp16_scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    optimizer = build_optimizer(model.get_params_groups(), config)
    values, batches = Schedules(config)(1000), batches_of(model)
    subnets = model.sample_subnets(2)
    train_step(model, optimizer, batches[:1], values, subnets[:1])  # fills the caches of tables
    with Lists() as lists, Waits() as waits:
        outcome = train_step(model, optimizer, batches, values, subnets)
    assert not outcome.non_finite
    assert not waits.seen
    assert lists.seen == {"tolist": 1}


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_copies_to_a_device_do_not_block(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU of fake tensors, which have no numbers: whatever would wait for one raises.

    Its backward pass needs a real GPU; it copies nothing. Swin is left out: its tables of windows, copied
    once, cannot be made of fake tensors.
    """
    pinned: set[int] = set()
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: pinned.add(id(x)) or x)
    overrides = ["train.prototype_chunk=20", *DROP_PATH[family]]
    model = POA(default_config([*FAMILIES[family], *overrides])).train()
    batches = batches_of(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = model.to("cuda")
        batches = [{key: mode.from_tensor(x) for key, x in batch.items()} for batch in batches]
        with Waits() as waits:
            terms = model.loss_terms(batches, 0.05)
    assert all(term.device.type == "cuda" for term in terms.values())
    assert waits.seen["copies"] >= len(pinned) >= 10
    assert waits.seen["blocking copies"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_is_not_waited_for(family: str) -> None:
    """CUDA raises at whatever waits, in forward and backward passes, clipping, AdamW and the average."""
    overrides = ["train.device=cuda", "train.prototype_chunk=20", *DROP_PATH[family]]
    config = default_config([*FAMILIES[family], *overrides])
    model = build_model(config).train()
    optimizer = build_optimizer(model.get_params_groups(), config)
    values, batches = Schedules(config)(1000), batches_of(model)
    subnets = model.sample_subnets(2)
    train_step(model, optimizer, batches, values, subnets)  # fills the caches of tables
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.zero_grad(set_to_none=True)
        model.forward_backward(batches, values.teacher_temp, subnets)
        clip_gradients(model.student, config.optim.clip_grad)
        optimizer.step()
        model.update_teacher(values.momentum)
    finally:
        torch.cuda.set_sync_debug_mode("default")
