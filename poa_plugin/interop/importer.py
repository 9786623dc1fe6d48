"""`poa import`: a run's folder from a checkpoint of another code base."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poa_plugin.config.load import save_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.folders import write_folder
from poa_plugin.interop.agreement import compare_schedules
from poa_plugin.interop.contents import Checkpoint, read_checkpoint
from poa_plugin.interop.fit import fit_config
from poa_plugin.interop.layout import BRANCHES, Entry
from poa_plugin.interop.moments import named_moments
from poa_plugin.interop.source import check_source, find_config
from poa_plugin.interop.target import check_space, check_target
from poa_plugin.ssl import POA
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.train import checkpoint as own
from poa_plugin.train.loop import build_model
from poa_plugin.train.optim import build_optimizer

CENTERS = ("cls_targets.", "patch_targets.")
HEADS = "dino_head."


@dataclass(frozen=True)
class Imported:
    """A run that was made: its folder, the step at which it stands, and sentences about it."""

    run: Path
    step: int
    lines: list[str]


def import_checkpoint(
    file: str | Path,
    run: str | Path,
    config: str | Path | None = None,
    words: Sequence[str] = (),
    format_name: str = "auto",
    drop: Sequence[str] = (),
) -> Imported:
    """Make a run of a checkpoint, from which extraction, evaluation and training go on.

    A training checkpoint with student, teacher and heads goes on at its iteration, with its
    optimizer's moments if it has them. Anything else starts at step 0, student and teacher alike.
    Every key is used, or named: in an error, or in a line of the result if `drop` asked for it.

    Args:
        file: see `read_checkpoint`; or a published run's folder, of which the newest checkpoint is taken.
        run: the run's folder, which must not be there or be empty.
        config: a recipe to lay under what the weights prove, or a published run's `config.yaml`. Without one it
            is the published `config.yaml` beside the file, or else the recipe of the file's family.
        words: `key=value` words laid over the recipe.
        format_name: see `read_checkpoint`.
        drop: see `read_checkpoint`; `optimizer` leaves out the moments.

    Raises:
        UserError: the run's folder holds something or cannot be written, the file cannot be read, the
            configuration contradicts it, or keys are missing, unknown, misshapen or not finite:
            all are named.
            Nothing has been written then.
    """
    run, recipe = Path(run), Path(config) if config else None
    check_target(run)
    if recipe is not None and not os.path.exists(recipe):  # noqa: PTH110
        raise UserError(f"There is no configuration file '{recipe}'.")
    file = check_source(Path(file))
    recipe = recipe or find_config(file)
    checkpoint = read_checkpoint(file, format_name, [name for name in drop if name != "optimizer"])
    settings, lines = fit_config(checkpoint, recipe, words)
    optimizer = checkpoint.optimizer
    if "optimizer" in drop:
        checkpoint.optimizer = None
    settings.output_dir = str(run)
    lines = [*checkpoint.lines, *lines]
    model = build_model(settings)
    found, more = _entries(checkpoint, settings)
    lines += more
    _check(_expected(model, found), found, checkpoint)
    lines += _fill(model, found)
    step = _step(found, checkpoint)
    lines += compare_schedules(optimizer, step - 1, settings) if step else []
    lines.append(_start(step, checkpoint))
    _write(
        run,
        model,
        settings,
        _moments(checkpoint, model, settings) if step else {},
        step,
        checkpoint,
    )
    return Imported(run, step, [line for line in lines if line])


def _entries(checkpoint: Checkpoint, config: Config) -> tuple[dict[str, Entry], list[str]]:
    """Return all that the file holds by the names of our model, at the run's image size."""
    lines: list[str] = []
    found: dict[str, Entry] = dict(checkpoint.loose)
    for branch, entries in checkpoint.branches.items():
        backbone = checkpoint.tensors(branch, "backbone")
        lines += checkpoint.family.adapt(backbone, config)
        for name, entry in entries.items():
            tensor = backbone.get(name.removeprefix("backbone."), entry.tensor)
            found[f"{branch}.{name}"] = Entry(entry.key, tensor)
    lines += _add_centers(found, checkpoint, config)
    kinds = {str(entry.tensor.dtype).removeprefix("torch.") for entry in found.values()} - {
        "float32"
    }
    if kinds:
        lines.append(f"Weights stored as {', '.join(sorted(kinds))} are turned into float32.")
    return found, list(dict.fromkeys(lines))


def _add_centers(found: dict[str, Entry], checkpoint: Checkpoint, config: Config) -> list[str]:
    """Add the losses' centers where the run keeps them, and what else stands under the losses' names."""
    unused = []
    for name, entry in checkpoint.centers.items():
        if config.train.centering != "centering" and name.startswith(CENTERS):
            unused.append(entry.key)
            continue
        fits = entry.tensor.dim() == 3 and len(entry.tensor) == 1
        found[name] = Entry(entry.key, entry.tensor[0] if fits else entry.tensor)
    keeps = f"as train.centering={config.train.centering} keeps no centers"
    return [f"Left out, {keeps}: {_quoted(unused)}."] if unused else []


def _expected(model: POA, found: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Return the tensors of our model that the file has to hold, given which parts it holds at all."""
    parts = [f"{branch}.backbone." for branch in BRANCHES if _any(found, f"{branch}.")]
    if any(_any(found, f"{branch}.{HEADS}") for branch in BRANCHES):
        parts += [prefix.replace("backbone.", HEADS) for prefix in parts]
    parts += [f"{kind}center_" for kind in CENTERS if _any(found, kind)]
    own_state = model.state_dict()
    return {key: value for key, value in own_state.items() if key.startswith(tuple(parts))}


def _any(names: Mapping[str, Entry], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _check(
    expected: Mapping[str, Tensor], found: Mapping[str, Entry], checkpoint: Checkpoint
) -> None:
    """Raise a `UserError` that names every key that is missing, unknown or of another shape."""
    several = len(checkpoint.branches) > 1
    missing = [_short(key, several) for key in expected.keys() - found.keys()]
    extra = [entry.key for key, entry in found.items() if key not in expected]
    misshapen = [
        f"'{found[key].key}' is {_form(found[key].tensor)}, not {_form(expected[key])}"
        for key in expected.keys() & found.keys()
        if found[key].tensor.shape != expected[key].shape
        or not found[key].tensor.is_floating_point()
    ]
    wild = [entry.key for entry in found.values() if not torch.isfinite(entry.tensor).all()]
    problems = []
    if missing:
        why = _reasons(checkpoint.family.missing_reasons, missing)
        problems.append(f"missing: {_quoted(missing)}{why}")
    if extra:
        why = _reasons(checkpoint.family.reasons, extra) or _how_to_drop(expected, found)
        problems.append(f"unknown here: {_quoted(extra)}{why}")
    if misshapen:
        problems.append(f"of another shape: {', '.join(sorted(misshapen))}")
    if wild:
        problems.append(f"not finite: {_quoted(wild)}")
    if problems:
        raise UserError(f"The weights in '{checkpoint.file}' do not fit; {'; '.join(problems)}.")


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"


def _short(key: str, several: bool) -> str:
    branch, _, name = key.partition(".")
    if branch not in BRANCHES:
        return key
    return f"{branch}.{name}" if several else name.removeprefix("backbone.")


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(f"'{key}'" for key in sorted(keys))


def _reasons(patterns: Mapping[str, str], keys: Sequence[str]) -> str:
    reasons = [
        reason
        for pattern, reason in patterns.items()
        if any(re.search(pattern, key) for key in keys)
    ]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _how_to_drop(expected: Mapping[str, Tensor], found: Mapping[str, Entry]) -> str:
    """Return how to leave out unknown keys that form parts of their own, such as a classifier."""
    own_parts = {_top(key) for key in expected}
    parts = sorted({_top(key) for key in found if key not in expected} - own_parts)
    return f" (leave out what is of no use with --drop {' '.join(parts)})" if parts else ""


def _top(key: str) -> str:
    branch, _, name = key.partition(".")
    return (name if branch in BRANCHES else key).removeprefix("backbone.").split(".")[0]


def _fill(model: POA, found: Mapping[str, Entry]) -> list[str]:
    """Put the file's tensors into the model; a branch that the file has not is like the other."""
    lines = []
    state = model.state_dict()
    for key, entry in found.items():
        state[key] = entry.tensor
    present = [branch for branch in BRANCHES if _any(found, f"{branch}.")]
    if len(present) == 1:
        [absent] = set(BRANCHES) - set(present)
        for key in [key for key in state if key.startswith(f"{absent}.")]:
            state[key] = state[key.replace(absent, present[0], 1)]
        lines.append("Student and teacher both start from these weights.")
    if not any(_any(found, f"{branch}.{HEADS}") for branch in BRANCHES):
        lines.append("The file has no projection heads: fresh ones were drawn from train.seed.")
    model.load_state_dict(state)
    return lines


def _step(found: Mapping[str, Entry], checkpoint: Checkpoint) -> int:
    """Return the step at which training goes on: the one after the last that was finished."""
    whole = all(_any(found, f"{branch}.{HEADS}") for branch in BRANCHES)
    return checkpoint.iteration + 1 if whole and checkpoint.iteration is not None else 0


def _start(step: int, checkpoint: Checkpoint) -> str:
    if step and checkpoint.optimizer is not None:
        return f"Training goes on at step {step}, with the optimizer's moments."
    if step:
        return f"Training goes on at step {step}; the optimizer's moments start anew."
    if checkpoint.iteration is not None or checkpoint.optimizer is not None:
        return (
            "Training starts at step 0, with no optimizer's state: to go on it takes student, teacher, "
            "heads and an iteration."
        )
    return ""


def _moments(checkpoint: Checkpoint, model: POA, config: Config) -> dict[str, dict[str, Tensor]]:
    if checkpoint.optimizer is None:
        return {}
    optim = config.optim
    settings = parameter_settings(model.student, optim.layerwise_decay, optim.patch_embed_lr_mult)
    shapes = {name: parameter.shape for name, parameter in model.student.named_parameters()}
    return named_moments(checkpoint, settings, shapes)


def _write(
    run: Path,
    model: POA,
    config: Config,
    moments: Mapping[str, dict[str, Tensor]],
    step: int,
    checkpoint: Checkpoint,
) -> None:
    """Write the run's configuration and its first checkpoint, as training writes them."""
    optimizer = build_optimizer(model.get_params_groups(), config)
    for name, parameter in own.named_parameters(optimizer):
        optimizer.state[parameter].update(moments.get(name, {}))
    with torch.no_grad():
        model.set_step(step)
    tensors = [
        *model.state_dict().values(),
        *(x for moment in moments.values() for x in moment.values()),
    ]
    check_space(run, sum(tensor.nbytes for tensor in tensors))
    state = {"step": step, "scaler": None, "imported": True, "format": checkpoint.format.name}
    with write_folder(run) as folder:
        save_config(config, folder / "config.yaml")
        own.save(folder / "ckpt", model, optimizer, state, config.train.keep_checkpoints)
