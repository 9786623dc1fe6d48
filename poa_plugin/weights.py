"""Reading weights from files, and refusing those that do not fit."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from poa_plugin.errors import UserError


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load a state dict strictly; see `check_weights`."""
    check_weights(model, tensors, source)
    model.load_state_dict(tensors)


def check_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Compare a state dict with a model's keys and shapes.

    Raises:
        UserError: a key is missing, too many or of another shape; the first of each is named.
    """
    own = model.state_dict()
    problems = []
    if missing := sorted(own.keys() - tensors.keys()):
        problems.append(f"{len(missing)} keys are missing, such as '{missing[0]}'")
    if extra := sorted(tensors.keys() - own.keys()):
        problems.append(f"{len(extra)} keys are unknown here, such as '{extra[0]}'")
    shapes = [
        f"'{key}' has shape {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    if problems or shapes:
        reason = "; ".join(problems + sorted(shapes)[:1])
        raise UserError(f"The weights in '{source}' are of another architecture: {reason}.")


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file into memory of its own.

    safetensors maps files: a tensor of a mapped file that is later written anew ends the process.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        return {key: tensor.clone() for key, tensor in load_file(file).items()}
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{file}'.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"The file '{file}' cannot be read: {error}.") from error
