"""Reading configurations: YAML files and `key=value` overrides are strict overlays over the schema's defaults.

Every registered backbone contributes a section of its own, `student.<name>`, with its own defaults, so
that changing `student.arch` is a valid recipe.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from poa_plugin.config import overlay
from poa_plugin.config.contradictions import contradictions
from poa_plugin.config.interpolation import resolve_in_place, unresolved_values
from poa_plugin.config.keys import Section, all_keys, new_config
from poa_plugin.config.packages import add_plugins, remove_unused
from poa_plugin.config.ranges import possible, value_problem
from poa_plugin.config.recipes import find_recipe
from poa_plugin.config.schema import Config
from poa_plugin.config.values import TRUE
from poa_plugin.config.yaml_input import Scalar
from poa_plugin.config.yaml_output import to_yaml
from poa_plugin.errors import UserError
from poa_plugin.files import write_atomically
from poa_plugin.registry import BACKBONES, LOGGERS, import_packages

FOR_ONE_COMMAND = {"train.accept_changes": False, "train.damaged_checkpoint": "stop"}
"""Keys that take a protection away, and what a run's `config.yaml` holds of them whatever was user_config."""
MOST_PROBLEMS = 5
"""So many wrong values are named at once."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe or a YAML file, lay `key=value` overrides over it, and check every key and value.

    Args:
        path: a YAML file, or the name of a recipe that comes with the package, such as `vit`; keys it leaves
            out keep the schema's defaults.
        overrides: such as `train.seed=1`, the last one wins.

    Returns:
        An `omegaconf.DictConfig` in struct mode, typed as the schema it follows; `${...}` is resolved, and a
        leading `~` of a path expanded.

    Raises:
        UserError: the file cannot be read, a key is unknown (the nearest one is named), a value has the wrong
            type or is out of its range, keys contradict one another, or a `${...}` cannot be resolved.
    """
    return _resolve([_without_consent(find_recipe(path)), overlay.from_overrides(overrides)])


def default_config(overrides: Sequence[str] = ()) -> Config:
    """Return the schema's defaults with `key=value` overrides laid over them (see `load_config`)."""
    return _resolve([overlay.from_overrides(overrides)])


def written_values(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a file and `key=value` overrides set, by dotted keys, as it is written and not yet read.

    Raises:
        UserError: as `load_config`.
    """
    overlays = [overlay.from_file(Path(path))] if path else []
    overlays.append(overlay.from_overrides(overrides))
    import_packages(overlay.named_packages(overlays), "'imports'")
    user_config = overlay.gather(overlays, all_keys())
    raise_problems(user_config.problems)
    return user_config.raw


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, every default spelled out; `load_config` reads the same.

    What was allowed for one command is not written (`FOR_ONE_COMMAND`), and no section that only other packages
    understand and that is not used: the file is read where those are not installed.
    """
    saved = copy.deepcopy(cast(DictConfig, config))
    for key, value in FOR_ONE_COMMAND.items():
        OmegaConf.update(saved, key, value)
    remove_unused(saved)
    write_atomically(path, to_yaml(saved))


def _resolve(overlays: list[overlay.Overlay]) -> Config:
    import_packages(overlay.named_packages(overlays), "'imports'")
    tree = all_keys()
    config = new_config(tree)
    user_config = overlay.gather(overlays, tree)
    problems = overlay.assign(config, user_config, tree)
    problems |= resolve_in_place(config, tree)
    problems |= _out_of_range(config, tree, user_config.raw, set(problems))
    raise_problems([*user_config.problems, *problems.values()])
    raise_problems(contradictions(cast(Config, config)))
    add_plugins(config, tree)
    return cast(Config, config)


def _out_of_range(
    config: DictConfig, tree: Section, raw: Mapping[str, Any], skip: Collection[str]
) -> dict[str, str]:
    """Return a sentence for each key, but for those in `skip`, whose value is missing or not allowed."""
    problems, values = {}, list(unresolved_values(config, tree))
    unused = _unused_sections({key.name: value for key, value in values})
    for key, value in values:
        if key.name in skip:
            continue
        if value == MISSING:
            if not key.name.startswith(unused):
                problems[key.name] = f"The key '{key.name}' is missing: it must be {possible(key)}."
            continue
        written = raw.get(key.name)
        problem = value_problem(key, value, written if isinstance(written, Scalar) else None)
        if problem:
            problems[key.name] = problem
    return problems


def _unused_sections(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the keys of backbones and loggers that are not chosen begin; these may lack a value."""
    arch, loggers = values["student.arch"], values["train.loggers"] or ()
    backbones = [f"student.{name}." for name in BACKBONES.names() if name != arch]
    others = [f"train.logger_options.{name}." for name in LOGGERS.names() if name not in loggers]
    return (*backbones, *others)


def _without_consent(path: Path) -> overlay.Overlay:
    """Return what a file sets, without `train.accept_changes`: only a command accepts changes, for itself."""
    file = overlay.from_file(path)
    for _, raw in file.settings:
        section = raw.get("train")
        consent = section.pop("accept_changes", None) if isinstance(section, dict) else None
        if isinstance(consent, Scalar) and consent.lower() in TRUE:
            print(
                f"poa: warning: train.accept_changes is left out of '{path}': it is set on the command "
                f"line, for one command.",
                file=sys.stderr,
            )
    return file


def raise_problems(problems: Sequence[str]) -> None:
    """Raise a `UserError` that names the first problems, if there are any."""
    more = len(problems) - MOST_PROBLEMS
    if problems:
        end = [f"And {more} more."] if more > 0 else []
        raise UserError(" ".join([*problems[:MOST_PROBLEMS], *end]))
