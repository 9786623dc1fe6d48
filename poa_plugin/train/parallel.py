"""What is done to a model from outside: compilation, recomputation, and distribution over ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from poa_plugin import ranks
from poa_plugin.backbones import ElasticBackbone
from poa_plugin.config.schema import Config
from poa_plugin.device import keep_freed_memory, resolve_device
from poa_plugin.elastic.layers import MultiInputBlock
from poa_plugin.errors import UserError
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl import POA
from poa_plugin.ssl.memory import BYTES_PER_PARAMETER
from poa_plugin.train.gradients import ReplicaReduction, ShardedReduction
from poa_plugin.train.header import row, say_first

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]

MOST_REPLICATED = 0.25
"""The part of a GPU's memory that weights, gradients and moments may take before `auto` shards them."""


class Parallel(NamedTuple):
    """How a model is distributed (`none`, `replicate` or `fsdp2`), and why."""

    kind: str
    reason: str


def build_model(config: Config) -> POA:
    """Build the meta-architecture on its device, its teacher equal to its student, distributed over the ranks.

    Raises:
        UserError: it cannot be distributed as configured, or ranks start from other weights.
    """
    device = resolve_device(config.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    model = cast(POA, META_ARCHS.get(config.meta_arch)(config).to(device))
    model.prepare_for_distributed_training()
    if config.train.compile:
        compile_blocks(model)
    if config.train.activation_checkpointing:
        recompute_blocks(model)
    check_equal_weights(model)
    n_parameters = sum(p.numel() for p in model.student.parameters())
    parallel = parallel_of(config, n_parameters, device)
    if ranks.world() > 1:
        say_first(row("ranks", f"{ranks.world()}, {parallel.kind} ({parallel.reason})"))
    distribute(model, parallel.kind)
    return model


def parallel_of(config: Config, n_parameters: int, device: torch.device) -> Parallel:
    """Return how `train.parallel` distributes a model over the ranks that there are; see `choose_parallel`."""
    is_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if is_gpu else None
    return choose_parallel(config, n_parameters, ranks.world(), memory)


def choose_parallel(
    config: Config, n_parameters: int, n_ranks: int, gpu_memory: int | None
) -> Parallel:
    """Return how `train.parallel` distributes a model.

    Args:
        config: a resolved configuration.
        n_parameters: of the student, backbone and heads.
        n_ranks: processes.
        gpu_memory: of each of them, in bytes; None on a CPU.

    Raises:
        UserError: `none` was asked for, and there are several ranks.
    """
    kind = config.train.parallel
    if n_ranks == 1:
        return Parallel("none", "one process")
    if kind == "none":
        raise UserError(
            f"train.parallel=none trains in one process, but there are {n_ranks}: use auto."
        )
    if kind != "auto":
        return Parallel(kind, "as configured")
    if gpu_memory is None:
        return Parallel("replicate", "host memory is shared by the ranks of a host")
    takes = BYTES_PER_PARAMETER * n_parameters
    figures = f"weights, gradients and moments take {takes / gpu_memory:.0%} of a GPU's memory"
    return Parallel("fsdp2" if takes > MOST_REPLICATED * gpu_memory else "replicate", figures)


def check_equal_weights(model: POA) -> None:
    """Check that all ranks start from the same weights, which each draws for itself.

    Raises:
        UserError: a rank has others, and is named.
    """
    if ranks.world() == 1:
        return
    sums = torch.stack([p.detach().double().sum() for p in model.student.parameters()])
    of_ranks = ranks.gathered(sums[None])
    for rank, other in enumerate((of_ranks != of_ranks[0]).any(dim=1).tolist()):
        if other:
            raise UserError(
                f"Rank {rank} draws other weights than rank 0 from the same seed: do they have the same torch?"
            )


def distribute(model: POA, kind: str) -> None:
    """Distribute a model over the ranks; its optimizer is built afterwards.

    `replicate` leaves all of it on every rank. `fsdp2` shards weights, gradients, moments and the teacher: each
    block, and what else a backbone or the heads have, is gathered when it runs. Both students then run
    in one pass, in which all ranks call every block, whatever their elastic students.

    Args:
        model: on its device, the same on all ranks.
        kind: see `Parallel`.

    Raises:
        UserError: this torch cannot shard it.
    """
    train = model.config.train
    if kind == "replicate":
        model.reduction = ReplicaReduction(list(model.student.parameters()))
    if kind != "fsdp2":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(
            f"train.parallel=fsdp2 needs torch 2.13 or newer, whose FSDP2 reduces parameters that only some "
            f"ranks use, and this is {torch.__version__}: use train.parallel=replicate."
        )
    # Class tokens are views of all tokens; nothing writes into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(model.step.device.type, (ranks.world(),))
    for branch in (model.student, model.teacher):
        # The teacher, too, is sharded again after its pass: its average needs both in the same form.
        reshard = train.reshard_after_forward or branch is model.teacher
        for modules in sharded_units(branch):
            for module in modules:
                fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
    model.joint_students = True
    model.reduction = ShardedReduction(list(model.student.values()), train.reduce == "shard")


def sharded_units(branch: nn.ModuleDict) -> list[list[nn.Module]]:
    """Return what FSDP2 gathers, one by one: of backbone and heads, the blocks, and last the module itself.

    The last one stands for what no block before it has.
    """
    blocks = cast(list[nn.Module], _blocks(branch))
    heads = [[part] for name, part in branch.items() if name != "backbone"]
    return [[*blocks, branch["backbone"]], *heads]


def compile_blocks(model: POA, backend: str = "inductor") -> None:
    """Compile what every block of the backbones does to one sub-network's tokens.

    Widths and numbers of tokens are dynamic: all sub-networks share a few compiled forms. The first
    steps take a minute longer.
    """
    for branch in (model.student, model.teacher):
        for block in _blocks(branch):
            _replace_run(block, torch.compile(block.run, dynamic=True, backend=backend))


def recompute_blocks(model: POA, contexts: Contexts = noop_context_fn) -> None:
    """Keep of the students' blocks their inputs alone, and run them again in the backward pass.

    Args:
        model: the meta-architecture.
        contexts: returns those of a block's first and of its second run.
    """
    for block in _blocks(model.student):
        again = partial(checkpoint, block.run, use_reentrant=False, context_fn=contexts)
        _replace_run(block, again)


def _replace_run(block: MultiInputBlock, run: Callable[..., Any]) -> None:
    block.run = run  # type: ignore[method-assign]


def _blocks(branch: nn.Module) -> list[MultiInputBlock]:
    backbone = cast(ElasticBackbone, cast(nn.ModuleDict, branch)["backbone"])
    return backbone.multi_input_blocks()
