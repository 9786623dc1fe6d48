"""Reading configurations: YAML files and `key=value` words are strict overlays over the schema's defaults.

Every registered backbone contributes a section of its own, `student.<name>`, with its own defaults, so
that changing `student.arch` is a valid recipe.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from poa_plugin.config.schema import CHOICES, Config, StudentConfig
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.files import write_whole
from poa_plugin.registry import BACKBONES, DATASETS, META_ARCHS, import_packages

FOR_ONE_COMMAND = {"train.accept_changes": False, "train.damaged_checkpoint": "stop"}
"""Keys that take a protection away, and what a run's `config.yaml` holds of them whatever was given."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, lay `key=value` words over it, and check every key and type.

    Args:
        path: a YAML file; keys it leaves out keep the schema's defaults.
        overrides: words such as `train.seed=1`, the last one wins.

    Returns:
        An `omegaconf.DictConfig` in struct mode, typed as the schema it follows.

    Raises:
        UserError: the file cannot be read, a key is unknown (the nearest one is named), a value has
            the wrong type or is not among the choices.
    """
    overlays = [_without_consent(_read_yaml(Path(path))), _read_words(overrides)]
    return _resolve(overlays)


def default_config(overrides: Sequence[str] = ()) -> Config:
    """Return the schema's defaults with `key=value` words laid over them (see `load_config`)."""
    return _resolve([_read_words(overrides)])


def backbone_options(config: Config) -> Any:
    """Return the section of the backbone that `student.arch` names.

    Raises:
        UserError: `student.arch` is missing or names no registered backbone.
    """
    if OmegaConf.is_missing(config.student, "arch"):
        raise UserError(
            f"The key 'student.arch' is missing; known: {', '.join(BACKBONES.names())}."
        )
    BACKBONES.get(config.student.arch)
    return config.student[config.student.arch]


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, every default spelled out.

    What was allowed for one command is not written (`FOR_ONE_COMMAND`).
    """
    saved = copy.deepcopy(cast(DictConfig, config))
    for key, value in FOR_ONE_COMMAND.items():
        OmegaConf.update(saved, key, value)
    write_whole(path, OmegaConf.to_yaml(saved, resolve=True))


def _resolve(overlays: list[DictConfig]) -> Config:
    for overlay in overlays:
        import_packages(map(str, overlay.get("imports") or []), "'imports'")
    config = _schema()
    for overlay in overlays:
        _refuse_unknown_keys(config, overlay)
        try:
            config.merge_with(overlay)
        except OmegaConfBaseException as error:
            key = f"The key '{error.full_key}'" if error.full_key else "The configuration"
            raise UserError(f"{key} has a wrong value: {str(error).splitlines()[0]}.") from error
    _check_values(config)
    return cast(Config, config)


def _schema() -> DictConfig:
    import poa_plugin.builtin  # noqa: F401  (registers what the package ships)

    sections = [
        (name, backbone.Options, field(default_factory=backbone.Options))
        for name, backbone in sorted(BACKBONES)
    ]
    student = dataclasses.make_dataclass("Student", sections, bases=(StudentConfig,))
    config = OmegaConf.structured(Config)
    config.student = OmegaConf.structured(student)
    return config


def _check_values(config: DictConfig) -> None:
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise UserError(f"The key '{key}' is '{value}': {did_you_mean(str(value), choices)}.")
    META_ARCHS.get(config.meta_arch)
    DATASETS.get(config.data.dataset)
    backbone_options(cast(Config, config))
    positive = ("train.shards", "train.batch_size_per_shard", "train.OFFICIAL_EPOCH_LENGTH")
    periods = ("train.log_period", "train.checkpoint_period", "train.max_skipped_steps")
    for key in (*positive, *periods, "optim.epochs", "optim.iter_num_scale"):
        if OmegaConf.select(config, key) <= 0:
            raise UserError(f"The key '{key}' must be positive.")
    if config.train.seed < 0:
        raise UserError("The key 'train.seed' must not be negative.")
    for key in ("ibot.mask_ratio_min_max", "crops.global_crops_scale", "crops.local_crops_scale"):
        pair = OmegaConf.select(config, key)
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
            raise UserError(
                f"The key '{key}' must be two numbers 0 <= low <= high <= 1, not {pair}."
            )
    if not any(config.loss.terms.values()):
        raise UserError("Every term under 'loss.terms' is off: there is nothing to optimise.")
    if not config.dino.head_n_prototypes:
        raise UserError("The key 'dino.head_n_prototypes' needs at least one number of prototypes.")


def _refuse_unknown_keys(schema: DictConfig, overlay: DictConfig, prefix: str = "") -> None:
    for key in map(str, overlay):
        name = f"{prefix}{key}"
        if key not in schema.keys():  # noqa: SIM118 (a missing value is no member)
            known = [prefix + str(candidate) for candidate in schema.keys()]  # noqa: SIM118
            raise UserError(f"Unknown configuration key '{name}': {did_you_mean(name, known)}.")
        below, given = schema._get_node(key), overlay._get_node(key)
        if isinstance(below, DictConfig):
            if not isinstance(given, DictConfig):
                raise UserError(
                    f"The key '{name}' is a section: set one of {', '.join(map(str, below))}."
                )
            _refuse_unknown_keys(below, given, f"{name}.")


def _read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration file '{path}'.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration file '{path}' cannot be read: {error}.") from error
    except (YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The configuration file '{path}' is not valid YAML: {reason}.") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"The configuration file '{path}' must hold sections, not a list.")
    return loaded


def _without_consent(file: DictConfig) -> DictConfig:
    """Return a file without `train.accept_changes: true`: only a command accepts changes, and for itself."""
    section = file._get_node("train")
    if isinstance(section, DictConfig) and "accept_changes" in section.keys():  # noqa: SIM118
        section.accept_changes = False
    return file


def _read_words(words: Sequence[str]) -> DictConfig:
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UserError(f"'{word}' is not of the form key=value, such as train.seed=1.")
    try:
        return OmegaConf.from_dotlist(list(words))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"The words {list(words)} cannot be read: {error}.") from error
