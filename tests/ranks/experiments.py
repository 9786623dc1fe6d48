"""The same small experiment on any number of ranks: targets, gradients, and weights after some steps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from poa_plugin import ranks
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.ssl import POA
from poa_plugin.testing import random_batch
from poa_plugin.train import parallel
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step
from tests.conftest import FAMILIES

SHARDS = 12
DROP_PATH = {
    "vit": ["student.vit.drop_path_rate=0.2"],
    "swin": ["student.swin.drop_path_rate=0.2"],
    "resnet": [],
}


@dataclass(frozen=True)
class Case:
    """An experiment.

    Attributes:
        family: of `FAMILIES`.
        overrides: of its configuration.
        masks: `on`; `empty` in the shards of the first rank; `off`; or `late`, from the second step on.
        optimizer: `sgd` or `adamw`.
        steps: to take.
        dtype: of weights and crops.
        backend: of the compiler, if blocks are compiled.
        scale: the logarithm of fp16's first loss scale.
    """

    family: str
    overrides: tuple[str, ...] = ()
    masks: str = "on"
    optimizer: str = "sgd"
    steps: int = 2
    dtype: torch.dtype = torch.float64
    backend: str | None = None
    scale: int = 4

    def config(self) -> Config:
        """Return the configuration."""
        epochs = {"off": 1000, "late": 1}.get(self.masks, 0)
        return default_config(
            [
                *FAMILIES[self.family],
                *DROP_PATH[self.family],
                f"train.shards={SHARDS}",
                "train.batch_size_per_shard=2",
                "train.OFFICIAL_EPOCH_LENGTH=1",
                "optim.epochs=2000",
                "optim.warmup_epochs=0",
                "optim.freeze_last_layer_epochs=0",
                f"ibot.start_epoch={epochs}",
                *self.overrides,
            ]
        )


def build(case: Case, config: Config) -> POA:
    """Return the distributed model of a case."""
    original = parallel.compile_blocks, POA.prepare_for_distributed_training
    if case.backend:
        config.train.compile = True
        parallel.compile_blocks = lambda model: original[0](model, case.backend)

    def in_dtype(model: POA) -> None:
        model.to(case.dtype)
        original[1](model)

    POA.prepare_for_distributed_training = in_dtype  # type: ignore[method-assign]
    try:
        return parallel.build_model(config).train()
    finally:
        parallel.compile_blocks, POA.prepare_for_distributed_training = original  # type: ignore[method-assign]


def run(case: Case) -> dict[str, Any]:
    """Run a case on this rank.

    Returns:
        `targets`, a hash for each step, shard, kind and head of this rank; `gradients` of the second step
        before clipping and `weights` after the last, whole; `losses`, the terms of each step; `samples`, the
        names of the elastic students that were run; `non_finite`, what was not finite in each step; `scale`, of
        fp16's gradient scaler.
    """
    config = case.config()
    model = build(case, config)
    groups = model.get_params_groups()
    sgd = case.optimizer == "sgd"
    optimizer = torch.optim.SGD(groups, lr=0.1) if sgd else build_optimizer(groups, config)
    schedules, mine = Schedules(config), ranks.my_shards(SHARDS)
    targets: dict[str, str] = {}
    result: dict[str, Any] = {"targets": targets, "losses": [], "samples": [], "non_finite": []}
    watch(model, targets, result)
    if model.fp16_scaler is not None:
        model.fp16_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**case.scale)
    for step in range(case.steps):
        subnets = model.sample_subnets(SHARDS)[mine.start : mine.stop]
        result["samples"].append([subnet.name for subnet in subnets])
        taken = train_step(model, optimizer, batches(case, config, step), schedules(step), subnets)
        result["non_finite"].append(taken.non_finite)
        result["losses"].append(taken.terms)
    state = model.state_dict()
    if model.fp16_scaler is not None:
        result["scale"] = model.fp16_scaler.get_scale()
    result["weights"] = {name: whole(value) for name, value in state.items()}
    return result


def batches(case: Case, config: Config, step: int) -> list[dict[str, Tensor]]:
    """Return this rank's batches of a step; crops are noise, masks those of the case."""
    made = []
    for shard in ranks.my_shards(SHARDS):
        batch = random_batch(config, 1000 * step + shard)
        if case.masks == "empty" and shard < SHARDS // 4:
            batch["collated_masks"][:] = False
        for kind in ("collated_global_crops", "collated_local_crops"):
            batch[kind] = batch[kind].to(case.dtype)
        made.append(batch)
    return made


def watch(model: POA, targets: dict[str, str], result: dict[str, Any]) -> None:
    """Note the targets of each step, and the gradients of the second."""
    make_targets, backward = model._teacher_targets, model.forward_backward

    def noting_targets(*arguments: Any) -> Any:
        made = make_targets(*arguments)
        first = ranks.my_shards(SHARDS).start
        for kind, heads in (("cls", made.cls), ("patches", made.patches)):
            for head, assignments in enumerate(heads):
                for position in range(SHARDS // ranks.world()):
                    key = f"{model.steps_taken}/{first + position}/{kind}/{head}"
                    values = assignments.all_of(position).contiguous().numpy().tobytes()
                    targets[key] = hashlib.sha256(values).hexdigest()
        return made

    def noting_gradients(*arguments: Any) -> Any:
        terms = backward(*arguments)
        if model.steps_taken == 1:
            named = model.student.named_parameters()
            result["gradients"] = {name: whole(p.grad) for name, p in named}
        return terms

    model._teacher_targets = noting_targets  # type: ignore[method-assign]
    model.forward_backward = noting_gradients  # type: ignore[method-assign]


def whole(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of a tensor, gathered if it is sharded."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return None if tensor is None else tensor.detach().clone()


def run_all(cases: Mapping[str, Case]) -> dict[str, dict[str, Any]]:
    """Run several cases on this rank, in their order."""
    return {name: run(case) for name, case in cases.items()}


def joined(of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result of all ranks': hashes of all shards, and the weights and gradients of rank 0."""
    targets = {key: value for result in of_ranks for key, value in result["targets"].items()}
    steps = zip(*(result["samples"] for result in of_ranks), strict=True)
    samples = [[name for names in step for name in names] for step in steps]
    return {**of_ranks[0], "targets": targets, "samples": samples}
