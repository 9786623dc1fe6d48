"""Training checkpoints with a file for each rank, written by torch's FSDP as the published code uses it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    ShardingStrategy,
    StateDictType,
)

from poa_plugin.config.load import default_config
from poa_plugin.ssl import POA
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.testing import randomize
from poa_plugin.train.schedules import Schedules
from tests.conftest import FAMILIES
from tests.interop.published_files import groups, module_order, published_key

ITERATION = 7
PUBLISHED = {
    "vit": [],
    "swin": ["student.swin.patch_norm=full"],
    "resnet": ["student.resnet.decay_shortcut_norm=true"],
}
RECIPE = ["optim.epochs=2", "optim.warmup_epochs=1", "train.OFFICIAL_EPOCH_LENGTH=6"]


class Tree(nn.Module):
    """A module whose parameters and buffers have given dotted names, in their order."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *parents, leaf = name.split(".")
            module: nn.Module = self
            for parent in parents:
                if parent not in module._modules:
                    module.add_module(parent, nn.Module())
                module = module.get_submodule(parent)
            if tensor.is_floating_point():
                module.register_parameter(leaf, nn.Parameter(tensor.clone()))
            else:
                module.register_buffer(leaf, tensor.clone())


@functools.cache
def branches(family: str) -> tuple[Any, dict[str, dict[str, Tensor]], dict[str, tuple]]:
    """The configuration, weights by published names for each branch, and the settings of the groups."""
    overrides = [*FAMILIES[family], *RECIPE, f"student.arch={family}"]
    overrides += PUBLISHED[family]
    config = default_config(overrides)
    model = POA(config)
    for seed, branch in enumerate((model.student, model.teacher)):
        torch.manual_seed(seed)
        randomize(branch)
    optim = config.optim
    ours = parameter_settings(model.student, optim.layerwise_decay, optim.patch_embed_lr_mult)
    settings = {published_key(name, family): setting for name, setting in ours.items()}
    names = {
        branch: module_order(getattr(model, branch).state_dict(), family)
        for branch in ("student", "teacher")
    }
    return config, names, settings


def moments(parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer holds for a parameter: functions of its elements, so that parts make a whole."""
    return {
        "step": torch.tensor(float(ITERATION + 1)),
        "exp_avg": 2 * parameter.detach(),
        "exp_avg_sq": parameter.detach() ** 2,
    }


def write_ranks(folder: Path, world: int, families: Sequence[str]) -> None:
    """Write a run of every family into `folder/<family>` with as many processes as there are ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (world, str(folder), list(families))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a process with threads
        torch.multiprocessing.start_processes(_rank, arguments, world, start_method="fork")


def _rank(rank: int, world: int, folder: str, families: Sequence[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    for family in families:
        _write(rank, Path(folder) / family, family)
    dist.destroy_process_group()


def _write(rank: int, run: Path, family: str) -> None:
    config, tensors, settings = branches(family)
    model = nn.Module()
    for branch, named_tensors in tensors.items():
        parts = nn.ModuleDict()
        for part in ("backbone", "dino_head"):
            members = {
                k.removeprefix(f"{part}."): v
                for k, v in named_tensors.items()
                if k.startswith(f"{part}.")
            }
            parts[part] = _wrapped(Tree(members))
        model.add_module(branch, parts)
    losses = nn.Module()
    losses.register_buffer("center_0", torch.zeros(1, 16))
    model.add_module("dino_loss", losses)
    named = {
        name.replace("_fsdp_wrapped_module.", ""): parameter
        for name, parameter in model.get_submodule("student").named_parameters()
    }
    values = Schedules(config)(ITERATION)
    own_groups: list[dict[str, Any]] = []
    for (lr, wd, is_last), members in groups(list(named), settings):
        rate = values.last_layer_lr if is_last else values.lr
        own_groups.append(
            {
                "params": [named[name] for name in members],
                "lr_multiplier": lr,
                "wd_multiplier": wd,
                "is_last_layer": is_last,
                "lr": rate * lr,
                "weight_decay": values.weight_decay * wd,
            }
        )
    optimizer = torch.optim.AdamW(own_groups, betas=(0.9, 0.999))
    for parameter in named.values():
        if parameter.numel():
            optimizer.state[parameter] = moments(parameter)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.LOCAL_STATE_DICT):
        state = model.state_dict()
    run.mkdir(exist_ok=True)
    contents = {"model": state, "optimizer": optimizer.state_dict(), "iteration": ITERATION}
    name = f"model_{ITERATION:07}.rank_{rank}.pth"
    torch.save(contents, run / name)
    (run / f"last_checkpoint.rank_{rank}").write_text(name)


def _wrapped(module: nn.Module) -> FullyShardedDataParallel:
    half = torch.float16
    return FullyShardedDataParallel(
        module,
        sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
        mixed_precision=MixedPrecision(half, half, torch.float32),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
