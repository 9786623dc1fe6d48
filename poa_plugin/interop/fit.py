"""The configuration that a checkpoint needs: what its tensors prove, and what is chosen for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mode
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from poa_plugin.config.load import default_config, load_config, written_values
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop.contents import Checkpoint

RESIZED = "crops.global_crops_size"
"""A proof that gives way: positions are resized to the user's image size."""


def fit_config(
    checkpoint: Checkpoint, path: Path | None, words: Sequence[str]
) -> tuple[Config, list[str]]:
    """Return the configuration of a run that holds a checkpoint, and sentences about it.

    What the tensors prove is laid over the user's file and words, what they leave open under them.

    Raises:
        UserError: the user's configuration is wrong, contradicts the tensors, or leaves out what
            nothing tells.
    """
    branch = next(iter(checkpoint.branches))
    known = {"student.arch": checkpoint.family.name}
    known |= checkpoint.family.architecture(checkpoint.tensors(branch, "backbone"))
    known |= heads_architecture(checkpoint.tensors(branch, "dino_head"))
    given = _given(path, words, checkpoint.family.name)
    _refuse_contradictions(known, given, checkpoint.file)
    open_ = _choices(checkpoint, known, given)
    chosen = {key: value for key, value in open_.items() if key not in given}
    facts = {key: value for key, value in known.items() if key not in given}
    laid_over = [_word(key, value) for key, value in {**facts, **chosen}.items()]
    config = _load(path, [*laid_over, *words])
    lines = [f"Read off the weights: {_list(known)}."]
    if chosen:
        lines.append(f"Chosen where weights do not tell; --config changes it: {_list(chosen)}.")
    return config, lines


def heads_architecture(heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration that projection heads prove; nothing without heads."""
    heads = {name: tensor for name, tensor in heads.items() if tensor.dim()}
    sizes: dict[int, int] = {}
    for name, tensor in heads.items():
        if match := re.match(r"(\d+)\.(last_layer\.weight_[gv]$|mlp\.)", name):
            head = int(match.group(1))
            sizes.setdefault(head, 1)
            if "last_layer" in name:
                sizes[head] = max(sizes[head], len(tensor))
    layers = {
        int(match.group(1))
        for name in heads
        if (match := re.fullmatch(r"\d+\.mlp\.(\d+)\.weight", name))
    }
    if not sizes or not layers:
        return {}
    first = [len(x) for name, x in heads.items() if name.endswith(".mlp.0.weight")]
    last = [len(x) for name, x in heads.items() if name.endswith(f".mlp.{max(layers)}.weight")]
    known = {
        "dino.head_n_prototypes": [sizes.get(head, 1) for head in range(max(sizes) + 1)],
        "dino.head_nlayers": len(layers),
        "dino.head_bottleneck_dim": mode(last),
    }
    if len(layers) > 1 and first:
        known["dino.head_hidden_dim"] = mode(first)
    return known


def _given(path: Path | None, words: Sequence[str], arch: str) -> dict[str, Any]:
    """Return the values that the user wrote down, typed by the schema, by dotted keys."""
    typed = _load(path, [_word("student.arch", arch), *words])
    written = written_values(path, words)
    given = {key: OmegaConf.select(cast(DictConfig, typed), key) for key in written}
    if "student.arch" in given:
        given["student.arch"] = str(written["student.arch"])
    return given


def _load(path: Path | None, words: Sequence[str]) -> Config:
    return load_config(path, words) if path else default_config(words)


def _refuse_contradictions(known: Mapping[str, Any], given: Mapping[str, Any], file: Path) -> None:
    different = [
        f"{key} is {_value(given[key])}, but {_value(value)} in the file"
        for key, value in known.items()
        if key in given and key != RESIZED and not _agree(given[key], value)
    ]
    if different:
        raise UserError(
            f"The configuration contradicts the weights in '{file}': {'; '.join(different)}."
        )


def _agree(given: Any, proved: Any) -> bool:
    if isinstance(given, float) and isinstance(proved, float):
        return abs(given - proved) < 1e-6 * max(abs(proved), 1)
    return bool(given == proved)


def _choices(
    checkpoint: Checkpoint, known: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    told = {key: value for key, value in checkpoint.told.items() if key not in known}
    choices = told | checkpoint.family.choices(known, {**told, **given}, checkpoint.format.name)
    if any(bool(entry.tensor.any()) for entry in checkpoint.centers.values()):
        choices["train.centering"] = "centering"
    return choices


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(_word(key, value) for key, value in values.items())


def _word(key: str, value: Any) -> str:
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")
