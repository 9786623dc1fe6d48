"""The configuration that a checkpoint needs: what its tensors prove, and what is chosen for the rest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mode
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from poa_plugin.config.load import default_config, load_config, written_values
from poa_plugin.config.renamed import current_names
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop.agreement import optimizer_settings
from poa_plugin.interop.contents import Checkpoint
from poa_plugin.interop.published_config import PublishedConfig, is_published, read_published
from poa_plugin.interop.recipes import RECIPE_KEYS, RECIPES

RESIZED = "crops.global_crops_size"
"""A proof that gives way: positions are resized to the user's image size."""


def fit_config(
    checkpoint: Checkpoint, path: Path | None, words: Sequence[str]
) -> tuple[Config, list[str]]:
    """Return the configuration of a run that holds a checkpoint, and sentences about it.

    What the tensors prove is laid over the user's file and words, what they leave open under them.
    Without a file the rest is the published recipe's; the file may be a published run's `config.yaml`.

    Raises:
        UserError: the user's configuration is wrong, contradicts the tensors, or leaves out what
            nothing tells.
    """
    branch = next(iter(checkpoint.branches))
    known = {"student.arch": checkpoint.family.name}
    known |= checkpoint.family.architecture(checkpoint.tensors(branch, "backbone"))
    known |= heads_architecture(checkpoint.tensors(branch, "dino_head"))
    proved = optimizer_settings(checkpoint.optimizer)
    published = _published(checkpoint, path)
    base: Mapping[str, Any] = {} if path else RECIPES[_recipe(checkpoint)]
    file, written = path, list[str]()
    if published is not None:
        base, file, written = published.defaults, None, _words(published.values)
    given = _given(file, [*written, *words], checkpoint.family.name)
    _refuse_contradictions(known, given, checkpoint.file, path)
    choices = _choices(checkpoint, known, given)
    chosen = {key: value for key, value in choices.items() if key not in given}
    told = {**base, **known, **proved, **chosen}
    under = _words({key: value for key, value in told.items() if key not in given})
    config = _load(file, [*under, *written, *words])
    lines = [f"Read off the weights: {_list(known)}."]
    if proved:
        lines.append(f"Read off the optimizer: {_list(proved)}.")
    if chosen:
        lines.append(f"Chosen where weights do not tell; --config changes it: {_list(chosen)}.")
    if published is not None:
        lines += [f"Taken from '{path}', a published run's: {_list(published.values)}."]
        lines += published.lines
    if file is None:
        source = (
            f"Not in '{path}' either, so as the published code has it"
            if published is not None
            else f"Not proven by the file, taken from the published recipe of {_recipe(checkpoint)}"
        )
        rest = _recipe_values(config, {*known, *proved, *chosen, *given})
        lines.append(f"{source}; --config changes it: {_list(rest)}.")
    return config, lines


def _published(checkpoint: Checkpoint, path: Path | None) -> PublishedConfig | None:
    """Return a published run's configuration in our keys; None if there is none, or it is in ours."""
    if path is None or not is_published_file(path):
        return None
    dinov2 = checkpoint.format.name == "dinov2"
    return read_published(_values(path), _keys(), checkpoint.family.name, str(path), dinov2)


def is_published_file(path: Path) -> bool:
    """Tell whether a file is a published run's configuration."""
    return is_published(_values(path), _keys())


def _keys() -> Collection[str]:
    """Return every key of the schema."""
    schema = default_config([_word("student.arch", "vit")])
    return _flat(OmegaConf.to_container(cast(DictConfig, schema)))


def _values(path: Path) -> dict[str, Any]:
    """Return a file's values by dotted keys; none if it cannot be read, which `load_config` explains."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return {}
    return current_names(_flat(loaded)) if isinstance(loaded, dict) else {}


def _recipe(checkpoint: Checkpoint) -> str:
    """Return whose recipe a checkpoint was trained by: POA's of its family, or DINOv2's."""
    resumes = checkpoint.iteration is not None and len(checkpoint.branches) > 1
    return "dinov2" if checkpoint.format.name == "dinov2" and resumes else checkpoint.family.name


def _recipe_values(config: Config, told: Collection[str]) -> dict[str, Any]:
    """Return how a network is trained, by dotted keys, without what something told."""
    keys = (*RECIPE_KEYS, f"student.{config.student.arch}.")
    return {
        key: value
        for key, value in _flat(OmegaConf.to_container(cast(DictConfig, config))).items()
        if key.startswith(keys) and key not in told
    }


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


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree} if prefix else {}
    return {
        leaf: value
        for key, below in tree.items()
        for leaf, value in _flat(below, f"{prefix}{key}.").items()
    }


def _refuse_contradictions(
    known: Mapping[str, Any], given: Mapping[str, Any], file: Path, recipe: Path | None
) -> None:
    different = [
        f"{key} is {_value(given[key])}, but {_value(value)} in the file"
        for key, value in known.items()
        if key in given and key != RESIZED and not _agree(given[key], value)
    ]
    if different:
        source = f" of '{recipe}'" if recipe else ""
        raise UserError(
            f"The configuration{source} contradicts the weights in '{file}': {'; '.join(different)}."
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
    return ", ".join(_words(values))


def _words(values: Mapping[str, Any]) -> list[str]:
    return [_word(key, value) for key, value in values.items()]


def _word(key: str, value: Any) -> str:
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value).replace(" ", "")
