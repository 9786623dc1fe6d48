"""From the bytes of an image file to pixels, the same for every container."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from poa_plugin.data.names import printable
from poa_plugin.errors import UserError

GRAY_MODES = ("1", "L", "LA", "La")
UNUSUAL = ("CMYK", "16-bit", "animated")
"""Kinds that can be converted: to RGB, to 8 bits, to the first frame."""
BAD = ("corrupt", "truncated", "tiny", "enormous", "floating-point")
"""Kinds of which no faithful 8-bit image can be made."""


class BadImageError(UserError):
    """An image that cannot be used.

    Args:
        name: what the image is called.
        kind: one of `BAD` and `UNUSUAL`.
        reason: half a sentence.
    """

    def __init__(self, name: str, kind: str, reason: str) -> None:
        super().__init__(f"The image '{printable(name)}' cannot be used ({kind}): {reason}.")
        self.name, self.kind, self.reason = name, kind, reason

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:  # from a worker process
        return type(self), (self.name, self.kind, self.reason)


def decode(content: bytes, name: str, convert_unusual: bool = True) -> Tensor:
    """Return an image file's pixels as (1 or 3, H, W) uint8: one channel if it is gray.

    Orientation tags are not followed, as in DINOv2's and torchvision's loaders. Transparency is
    dropped.

    Args:
        content: the file.
        name: for errors.
        convert_unusual: make RGB of CMYK, 8 bits of 16, and take the first frame of an animation;
            otherwise these are bad images.

    Raises:
        BadImageError: the file is no image, or of a kind that is not accepted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content)) as image:
                _refuse_header(image, name, convert_unusual)
                return _pixels(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"it has more than {Image.MAX_IMAGE_PIXELS} pixels"
        raise BadImageError(name, "enormous", reason) from error
    except UnidentifiedImageError as error:
        raise BadImageError(name, "corrupt", "its format is unknown") from error
    except (BadImageError, MemoryError):  # memory is no property of the image
        raise
    except Exception as error:  # decoders raise many types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in reason.lower() else "corrupt"
        raise BadImageError(name, kind, reason.rstrip(".")) from error


def _refuse_header(image: Image.Image, name: str, convert_unusual: bool) -> None:
    if min(image.size) < 2:
        width, height = image.size
        raise BadImageError(name, "tiny", f"it is {width} x {height} pixels")
    if image.mode == "F":
        reason = "save it with 8 or 16 bits"
        raise BadImageError(name, "floating-point", reason)
    kind = unusual_kind(image)
    if kind is not None and not convert_unusual:
        raise BadImageError(name, kind, "data.unusual_images is 'skip'")


def unusual_kind(image: Image.Image) -> str | None:
    """Return which of `UNUSUAL` an open image is, if any."""
    if image.mode == "CMYK":
        return "CMYK"
    if image.mode.startswith("I") or any(
        ";16" in str(tile[-1]) for tile in getattr(image, "tile", ())
    ):
        return "16-bit"
    return "animated" if getattr(image, "n_frames", 1) > 1 and image.format != "MPO" else None


def _pixels(image: Image.Image) -> Tensor:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        levels = np.asarray(image).clip(0, 65535) >> 8
        return torch.from_numpy(levels.astype(np.uint8)).unsqueeze(0)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    import torchvision.transforms.v2.functional as TF  # takes seconds

    return TF.pil_to_tensor(image.convert("L" if image.mode in GRAY_MODES else "RGB"))
