"""Images that are read, converted and refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from poa_plugin.data import BadImageError
from poa_plugin.data.decode import decode
from tests.data.image_files import BAD, UNUSUAL, encoded, good, noise, sixteen_bit_color


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_is_named(kind: str) -> None:
    with pytest.raises(BadImageError, match="'some name' cannot be used") as actual:
        decode(BAD[kind], "some name")
    assert (actual.value.name, actual.value.kind) == ("some name", kind)


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_is_converted_or_refused(kind: str) -> None:
    pixels = decode(UNUSUAL[kind], "x")
    assert pixels.dtype == torch.uint8
    assert len(pixels) == (1 if kind == "16-bit" else 3)
    with pytest.raises(BadImageError) as actual:
        decode(UNUSUAL[kind], "x", convert_unusual=False)
    assert actual.value.kind == kind


def test_an_animation_gives_its_first_frame() -> None:
    first = Image.open(io.BytesIO(UNUSUAL["animated"])).convert("RGB")
    assert torch.equal(
        decode(UNUSUAL["animated"], "x"), torch.tensor(np.array(first)).permute(2, 0, 1)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_found(kind: str) -> None:
    """Wherever pixels are missing; a PNG, BMP or TIFF may lack what follows its last pixel."""
    content = encoded(noise(0), kind)
    for share in (0.02, 0.1, 0.5, 0.9):
        with pytest.raises(BadImageError) as actual:
            decode(content[: int(share * len(content))], "x")
        assert actual.value.kind in ("truncated", "corrupt")


@pytest.mark.parametrize("cut", [1, 2, 10, 300])
def test_the_end_of_a_jpeg(cut: int) -> None:
    with pytest.raises(BadImageError, match="truncated"):
        decode(good(0)[:-cut], "x")


def test_a_jpeg_is_what_pillow_reads() -> None:
    for seed in (0, 2):
        expected = np.array(Image.open(io.BytesIO(good(seed))))
        expected = expected[..., None] if expected.ndim == 2 else expected
        assert torch.equal(decode(good(seed), "x"), torch.tensor(expected).permute(2, 0, 1))


def test_sixteen_bits_of_color_are_noticed() -> None:
    """Pillow opens them as 8 bits without a word."""
    assert decode(sixteen_bit_color(), "x").shape == (3, 4, 5)
    with pytest.raises(BadImageError, match="16-bit"):
        decode(sixteen_bit_color(), "x", convert_unusual=False)


def test_want_of_memory_is_no_property_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("poa_plugin.data.decode._pixels", no_room)
    with pytest.raises(MemoryError):
        decode(good(0), "x")
