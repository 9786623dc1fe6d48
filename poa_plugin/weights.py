"""Reading and writing files of weights, and refusing weights that do not fit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
    check_shapes(model, {key: tensor.shape for key, tensor in tensors.items()}, source)


def check_shapes(model: nn.Module, shapes: Mapping[str, Sequence[int]], source: Path) -> None:
    """Compare the shapes of a state dict with a model; see `check_weights`."""
    expected = model.state_dict()
    problems = []
    if missing := sorted(expected.keys() - shapes.keys()):
        problems.append(f"{len(missing)} keys are missing, such as '{missing[0]}'")
    if extra := sorted(shapes.keys() - expected.keys()):
        problems.append(f"{len(extra)} keys are unexpected, such as '{extra[0]}'")
    misshapen = [
        f"'{key}' has shape {tuple(shapes[key])}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & shapes.keys()
        if tuple(expected[key].shape) != tuple(shapes[key])
    ]
    if problems or misshapen:
        reason = "; ".join(problems + sorted(misshapen)[:1])
        raise UserError(f"The weights in '{source}' are of another architecture: {reason}.")


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file into newly allocated memory.

    safetensors maps files: a tensor of a mapped file that is later written anew ends the process.

    Raises:
        UserError: it does not exist, or is damaged.
    """
    with reading_tensors(file):
        return {key: tensor.clone() for key, tensor in load_file(file).items()}


@contextmanager
def reading_tensors(file: Path) -> Iterator[None]:
    """Turn errors of reading a safetensors file into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{file}'.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"The file '{file}' cannot be read: {error}.") from error


def save_tensors(
    tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the permissions that other new files get.

    safetensors itself makes files that only their owner may read, whatever the umask.

    Raises:
        OSError: the disk refuses; with the system's error number.
    """
    file.touch()
    permissions = file.stat().st_mode
    try:
        save_file(dict(tensors), file, metadata=metadata)
    except SafetensorError as error:  # the system's error number is only in its text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from error
    if file.stat().st_mode != permissions:  # some file systems have no permissions to change
        file.chmod(permissions)
