"""A run's output folder belongs to one configuration.

The images may be moved; `images.py` checks that they are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from poa_plugin.config.load import load_config, save_config
from poa_plugin.config.schema import Config
from poa_plugin.data import Names
from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint
from poa_plugin.train.images import read_record, record_images

FREE = (
    "output_dir",
    "data.max_bad_ratio",
    "data.num_workers",
    "train.device",
    "train.threads",
    "train.parallel",
    "train.reduce",
    "train.reshard_after_forward",
    "train.activation_checkpointing",
    "train.timeout_s",
    "train.max_minutes",
    "train.log_period",
    "train.loggers",
    "train.logger_options.",
    "train.checkpoint_period",
    "train.async_checkpoints",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.damaged_checkpoint",
    "train.accept_changes",
    "evaluation.",
)
"""Keys, and sections, that may differ between two starts of one run: they change no weight."""
PATH = "data.path"


def check_folder(run: Path, config: Config, newest: Path | None) -> list[str]:
    """Return the differences to the configuration of the run in a folder; nothing if there is no run.

    A run that was imported and not yet trained here takes any configuration that its weights fit. Where
    the images of the run are recorded (`check_images`), `data.path` may differ.

    Args:
        run: the output folder.
        config: the full configuration.
        newest: the checkpoint to resume from, if there is one.

    Raises:
        UserError: something differs that matters, and `train.accept_changes` is off.
    """
    file = run / "config.yaml"
    changes = differences(load_config(file), config) if file.is_file() else []
    if read_record(run) is not None:
        changes = [change for change in changes if not change.startswith(f"{PATH} is ")]
    if changes and newest is not None and checkpoint.is_imported(newest):
        return []
    if changes and not config.train.accept_changes:
        raise UserError(
            f"'{run}' holds a run with another configuration: {_few(changes)}. Choose another "
            f"output_dir, or resume with the new values by train.accept_changes=true in this command."
        )
    return changes


def claim_folder(run: Path, config: Config, changes: list[str], names: Names | None = None) -> None:
    """Make a run's folder and write `config.yaml`, and which images the run is trained on.

    The former configuration of a run that is resumed with other values stays beside the new one, as
    `config.1.yaml`, `config.2.yaml` and so on.

    Args:
        run: the output folder.
        config: the full configuration.
        changes: what `check_folder` and `check_images` returned.
        names: of the images, in order; None records none.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = run / "config.yaml"
    if changes:
        print(f"Resuming with changed values: {_few(changes)}.")
    if changes and file.is_file():
        save_config(load_config(file), _unused(run))
    save_config(config, file)
    if names is not None:
        record_images(run, names)


def _unused(run: Path) -> Path:
    """Return the first of `config.1.yaml`, `config.2.yaml`, ... after all that exist."""
    numbers = [file.name.split(".")[1] for file in run.glob("config.*.yaml")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return run / f"config.{last + 1}.yaml"


def differences(saved: Config, config: Config) -> list[str]:
    """Return, for each key that matters and differs, a phrase with both values."""
    old, new = _flat(saved), _flat(config)
    return [
        f"{key} is {old.get(key, 'not set')} there and {new.get(key, 'not set')} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(config: Config) -> dict[str, Any]:
    """Return the values that matter by their dotted keys; of the backbones, the chosen one's."""
    container = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, config)))
    student = container["student"]
    container["student"] = {key: student[key] for key in ("arch", student["arch"])}
    return {
        key: value
        for key, value in _items("", container)
        if not any(key == free or (free[-1] == "." and key.startswith(free)) for free in FREE)
    }


def _items(prefix: str, section: dict[str, Any]) -> list[tuple[str, Any]]:
    items = []
    for key, value in section.items():
        name = f"{prefix}{key}"
        items += _items(f"{name}.", value) if isinstance(value, dict) else [(name, value)]
    return items


def _few(changes: list[str]) -> str:
    more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
    return "; ".join(changes[:8]) + more
