"""The configuration that a checkpoint needs: what its tensors prove, and what is chosen for the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from poa_plugin.config.fields import show
from poa_plugin.config.keys import all_keys
from poa_plugin.config.load import default_config, load_config, written_values
from poa_plugin.config.recipes import recipe_path
from poa_plugin.config.renamed import current_names
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop.checkpoint import Checkpoint
from poa_plugin.interop.families import most_common
from poa_plugin.interop.optimizer import optimizer_settings
from poa_plugin.interop.published_config import PublishedConfig, is_published, read_published

RESIZED = "crops.global_crops_size"
"""A proof that gives way: positions are resized to the user's image size."""


def fit_config(
    checkpoint: Checkpoint, path: Path | None, overrides: Sequence[str]
) -> tuple[Config, list[str]]:
    """Return the configuration of a run that holds a checkpoint, and sentences about it.

    What the tensors prove is laid over the user's file and overrides, what they leave open under them.
    Without a file the rest is the published recipe's; the file may be a published run's `config.yaml`.

    Raises:
        UserError: the user's configuration is wrong, contradicts the tensors, or leaves out what
            nothing tells.
    """
    family, branch = checkpoint.family, checkpoint.branches[0]
    proved = {"student.arch": family.name}
    proved |= family.architecture(checkpoint.tensors(f"{branch}.backbone."))
    proved |= _heads_architecture(checkpoint.tensors(f"{branch}.dino_head."))
    published = _published(checkpoint, path)
    if published:
        overrides = [*_overrides(published.values), *overrides]
    file = None if published else path
    user = _user_values(file, overrides, family.name)
    _refuse_contradictions(proved, user, checkpoint.file)
    proved |= optimizer_settings(checkpoint.optimizer)
    chosen = _chosen(checkpoint, proved, user)
    inferred = {key: x for key, x in {**proved, **chosen}.items() if key not in user}
    recipe = published.recipe if published else _recipe(checkpoint)
    config = load_config(file or recipe_path(recipe), [*_overrides(inferred), *overrides])
    messages = [
        f"Read off the file: {', '.join(_overrides(proved))}.",
        f"Chosen, as no tensor shows it; --config changes it: {', '.join(_overrides(chosen))}.",
    ]
    if published:
        messages.append(f"Taken from '{path}': {', '.join(_overrides(published.values))}.")
        messages += published.messages
    if file is None:
        messages.append(f"Everything else is the recipe '{recipe}' (poa recipes {recipe}).")
    return config, messages


def is_published_file(path: Path) -> bool:
    """Tell whether a file is a published run's configuration."""
    return is_published(_file_values(path), _our_keys())


def _published(checkpoint: Checkpoint, path: Path | None) -> PublishedConfig | None:
    """Return a published run's configuration in our keys; None if there is none, or it is in ours."""
    if path is None or not is_published_file(path):
        return None
    is_dinov2 = checkpoint.format.name == "dinov2"
    family = checkpoint.family.name
    return read_published(_file_values(path), _our_keys(), family, str(path), is_dinov2)


def _our_keys() -> set[str]:
    return {key.name for key in all_keys().leaves()}


def _file_values(path: Path) -> dict[str, Any]:
    """Return a file's values by dotted keys; none if it cannot be read, which `load_config` explains."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return {}
    return current_names(_flat(loaded)) if isinstance(loaded, dict) else {}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree} if prefix else {}
    return {
        leaf: value
        for key, below in tree.items()
        for leaf, value in _flat(below, f"{prefix}{key}.").items()
    }


def _recipe(checkpoint: Checkpoint) -> str:
    """Return the recipe by which a checkpoint was trained: POA's of its family, or DINOv2's."""
    resumes = checkpoint.iteration is not None and len(checkpoint.branches) > 1
    if checkpoint.format.name == "dinov2" and resumes:
        return "dinov2_vit"
    return checkpoint.family.name


def _heads_architecture(heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration that projection heads prove; nothing without heads."""
    numbers = [int(name.split(".")[0]) for name in heads if re.match(r"\d+\.", name)]
    layers: dict[int, list[int]] = {}
    for name, tensor in heads.items():
        if match := re.fullmatch(r"\d+\.mlp\.(\d+)\.bias", name):
            layers.setdefault(int(match[1]), []).append(tensor.numel())
    if not layers:
        return {}
    prototypes = [heads.get(f"{n}.last_layer.weight_g") for n in range(max(numbers) + 1)]
    proved = {
        "dino.head_n_prototypes": [1 if x is None else x.numel() for x in prototypes],
        "dino.head_nlayers": len(layers),
        "dino.head_bottleneck_dim": most_common(layers[max(layers)]),
    }
    if len(layers) > 1:
        proved["dino.head_hidden_dim"] = most_common(layers[min(layers)])
    return proved


def _user_values(path: Path | None, overrides: Sequence[str], arch: str) -> dict[str, Any]:
    """Return the values that the user wrote down, typed by the schema, by dotted keys."""
    overrides_ = [f"student.arch={arch}", *overrides]
    typed = load_config(path, overrides_) if path else default_config(overrides_)
    written = written_values(path, overrides)
    values = {key: OmegaConf.select(cast(DictConfig, typed), key) for key in written}
    if "student.arch" in written:
        values["student.arch"] = str(written["student.arch"])
    return values


def _refuse_contradictions(proved: Mapping[str, Any], user: Mapping[str, Any], file: Path) -> None:
    different = [
        f"{key} is {show(user[key])}, but {show(value)} in the file"
        for key, value in proved.items()
        if key in user and key != RESIZED and user[key] != value
        if not isinstance(value, float) or not math.isclose(user[key], value, rel_tol=1e-6)
    ]
    if different:
        raise UserError(
            f"The configuration contradicts the weights in '{file}': {'; '.join(different)}."
        )


def _chosen(
    checkpoint: Checkpoint, proved: Mapping[str, Any], user: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is chosen where the user has said nothing, by dotted keys."""
    metadata = {key: x for key, x in checkpoint.metadata.items() if key not in proved}
    inferred = {**metadata, **user}
    chosen = metadata | checkpoint.family.choices(proved, inferred, checkpoint.format.name)
    if any(bool(entry.tensor.any()) for entry in checkpoint.centers.values()):
        chosen["train.centering"] = "centering"
    return {key: value for key, value in chosen.items() if key not in user}


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values as `key=value` overrides."""
    return [f"{key}={show(value)}" for key, value in values.items()]
