"""`poa import`: a run's folder from a checkpoint of another code base."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poa_plugin.config.load import save_config
from poa_plugin.config.recipes import find_recipe
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.folders import write_folder
from poa_plugin.interop.checkpoint import Checkpoint, read_checkpoint
from poa_plugin.interop.files import checkpoint_files
from poa_plugin.interop.fit import fit_config, is_published_file
from poa_plugin.interop.names import BRANCH_PREFIXES, BRANCHES, inner_name, quoted
from poa_plugin.interop.optimizer import compare_schedules, named_moments
from poa_plugin.ssl import POA
from poa_plugin.targets import check_folder_target
from poa_plugin.train import checkpoint as checkpoints
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model


@dataclass(frozen=True)
class Imported:
    """A run that was made: its folder, the step at which it stands, and sentences about it."""

    run: Path
    step: int
    messages: list[str]


def import_checkpoint(
    file: str | Path,
    run: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    format_name: str = "auto",
    drop: Sequence[str] = (),
) -> Imported:
    """Make a run of a checkpoint, from which extraction, evaluation and training resume.

    A training checkpoint with student, teacher and heads resumes at its iteration, with its
    optimizer's moments if it has them. Anything else starts at step 0, student and teacher alike.
    Every key is used, or named: in an error, or in a message of the result.

    Args:
        file: see `read_checkpoint`.
        run: the run's folder, which must not be there or be empty.
        config: a recipe to lay under what the weights prove, or a published run's `config.yaml`. Without one it
            is the published `config.yaml` beside the file, or else the recipe of the file's family.
        overrides: `key=value` words laid over the recipe.
        format_name: see `read_checkpoint`.
        drop: see `read_checkpoint`; `optimizer` leaves out the moments.

    Raises:
        UserError: the run's folder holds something or cannot be written, the file cannot be read, the
            configuration contradicts it, or keys are missing, unknown, misshapen or not finite:
            all are named. Nothing has been written then.
    """
    run = Path(run)
    check_folder_target(run, "The run's folder")
    with write_folder(run) as folder:
        recipe = find_recipe(config) if config else _config_beside(Path(file))
        names = [name for name in drop if name != "optimizer"]
        checkpoint = read_checkpoint(file, format_name, names)
        settings, messages = fit_config(checkpoint, recipe, overrides)
        settings.output_dir = str(run)
        messages += _leave_out_centers(checkpoint, settings)
        model = build_model(settings)
        tensors = _checked(checkpoint, model)
        messages += _load(model, tensors, checkpoint)
        step, moments = _step(checkpoint), {}
        if step:
            messages += compare_schedules(checkpoint.optimizer, step - 1, settings)
            if checkpoint.optimizer is not None and "optimizer" not in drop:
                moments = named_moments(checkpoint, model.student, settings)
        messages.append(_start(step, bool(moments)))
        _save(folder, model, settings, moments, step, checkpoint.format.name)
    return Imported(run, step, [*filter(None, [*checkpoint.messages, *messages])])


def _config_beside(file: Path) -> Path | None:
    """Return the `config.yaml` of a published run beside its checkpoint; None if there is none."""
    beside = checkpoint_files(file)[0].with_name("config.yaml")
    return beside if beside.is_file() and is_published_file(beside) else None


def _leave_out_centers(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Leave out the losses' centers where the run keeps none; return a message about it."""
    if config.train.centering == "centering":
        return []
    keys = [checkpoint.entries.pop(name).key for name in checkpoint.centers]
    unused = f"as train.centering={config.train.centering} keeps no centers"
    return [f"Left out, {unused}: {quoted(keys)}."] if keys else []


def _checked(checkpoint: Checkpoint, model: POA) -> dict[str, Tensor]:
    """Return the checkpoint's tensors in the model's shapes.

    Raises:
        UserError: keys are missing, unknown, of another shape or not finite; all are named.
    """
    expected = _expected(checkpoint, model)
    tensors = {name: entry.tensor for name, entry in checkpoint.entries.items()}
    for name in tensors.keys() & expected.keys():
        shape, tensor = expected[name].shape, tensors[name]
        is_row = checkpoint.is_flat or name in checkpoint.centers
        if is_row and tensor.numel() == shape.numel():
            tensors[name] = tensor.reshape(shape)
        elif name.startswith(tuple(f"{branch}.backbone." for branch in BRANCHES)):
            tensors[name] = checkpoint.family.resized(name.split(".", 2)[2], tensor, shape)
    keys = {name: entry.key for name, entry in checkpoint.entries.items()}
    prefix = "" if len(checkpoint.branches) > 1 else r"^(student|teacher)\.(backbone\.)?"
    missing = sorted(re.sub(prefix, "", name) for name in expected.keys() - keys.keys())
    unknown = sorted(key for name, key in keys.items() if name not in expected)
    misshapen = [
        f"'{keys[name]}' is {_form(tensors[name])}, not {_form(tensor)}"
        for name, tensor in expected.items()
        if name in keys and _form(tensors[name]) != _form(tensor)
    ]
    infinite = sorted(keys[name] for name, x in tensors.items() if not torch.isfinite(x).all())
    problems = {
        "missing": quoted(missing),
        "unknown here (--drop NAME leaves out what is of no use)": quoted(unknown),
        "of another shape": ", ".join(misshapen),
        "not finite": quoted(infinite),
    }
    if any(problems.values()):
        shown = "; ".join(f"{what}: {names}" for what, names in problems.items() if names)
        raise UserError(f"The weights in '{checkpoint.file}' do not fit; {shown}.")
    return tensors


def _expected(checkpoint: Checkpoint, model: POA) -> dict[str, Tensor]:
    """Return the tensors of our model that the file has to hold, as it holds others of the same part."""
    parts = [f"{branch}.backbone." for branch in checkpoint.branches]
    if any(checkpoint.holds(f"{branch}.dino_head.") for branch in checkpoint.branches):
        parts += [f"{branch}.dino_head." for branch in checkpoint.branches]
    parts += {re.sub(r"\d+$", "", name) for name in checkpoint.centers}
    expected = {key: x for key, x in model.state_dict().items() if key.startswith(tuple(parts))}
    if checkpoint.format.is_pretraining:
        return expected
    optional = re.compile(rf"\w+\.backbone\.({checkpoint.family.pretraining})")
    return {
        key: x
        for key, x in expected.items()
        if key in checkpoint.entries or not optional.fullmatch(key)
    }


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"


def _load(model: POA, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> list[str]:
    """Put tensors into the model; a branch that the file has not is like the other. Return messages."""
    messages = []
    state = {**model.state_dict(), **tensors}
    if len(checkpoint.branches) == 1:
        [present] = checkpoint.branches
        [absent] = set(BRANCHES) - {present}
        for key in [key for key in state if key.startswith(f"{absent}.")]:
            state[key] = state[key.replace(absent, present, 1)]
        messages.append("Student and teacher both start from these weights.")
    names = {inner_name(name) for name in tensors}
    new = {
        re.sub(r"^\w+\.(backbone\.|(dino_head)\..*)", r"\2", name)
        for name in state
        if name.startswith(BRANCH_PREFIXES) and inner_name(name) not in names
    }
    if new:
        messages.append(f"Not in the file, so it starts anew: {quoted(sorted(new))}.")
    entries = checkpoint.entries
    resized = [name for name, x in tensors.items() if x.numel() != entries[name].tensor.numel()]
    if resized:
        messages.append(f"Resized to the run's image size: {quoted(resized)}.")
    model.load_state_dict(state)
    return messages


def _step(checkpoint: Checkpoint) -> int:
    """Return the step at which training resumes: the one after the last that was finished."""
    is_complete = all(checkpoint.holds(f"{branch}.dino_head.") for branch in BRANCHES)
    return checkpoint.iteration + 1 if is_complete and checkpoint.iteration is not None else 0


def _start(step: int, with_moments: bool) -> str:
    if not step:
        return "Training starts at step 0: to resume, it takes student, teacher, heads and an iteration."
    moments = "the optimizer's moments" if with_moments else "new moments of the optimizer"
    return f"Training resumes at step {step}, with {moments}."


def _save(
    folder: Path,
    model: POA,
    config: Config,
    moments: Mapping[str, dict[str, Tensor]],
    step: int,
    format_name: str,
) -> None:
    """Write the run's configuration and its first checkpoint, as training writes them."""
    optimizer = build_optimizer(model.get_params_groups(), config)
    for name, parameter in checkpoints.named_parameters(optimizer):
        optimizer.state[parameter].update(moments.get(name, {}))
    with torch.no_grad():
        model.set_step(step)
    state = {"step": step, "scaler": None, "imported": True, "format": format_name}
    save_config(config, folder / "config.yaml")
    checkpoints.save(folder / "ckpt", model, optimizer, state, config.train.keep_checkpoints)
