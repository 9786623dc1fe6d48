"""Image files of every kind, good and bad, made in memory."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (40, 30), channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def good(seed: int) -> bytes:
    """A JPEG, gray for every third seed."""
    return encoded(noise(seed, channels=1 if seed % 3 == 2 else 3), "JPEG", quality=92)


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """An RGB PNG put together by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def header_of_a_bomb() -> bytes:
    """A PNG that says it has 60,000 x 60,000 pixels."""
    return png(60_000, 60_000, 8, b"\0")


def sixteen_bit_color() -> bytes:
    return png(5, 4, 16, (b"\0" + bytes(range(30))) * 4)


BAD = {
    "corrupt": b"no image at all",
    "truncated": good(0)[: len(good(0)) // 2],
    "tiny": encoded(noise(0, (1, 1)), "PNG"),
    "enormous": header_of_a_bomb(),
    "floating-point": encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
}
UNUSUAL = {
    "CMYK": encoded(noise(1).convert("CMYK"), "JPEG"),
    "16-bit": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999), "PNG"),
    "animated": encoded(noise(1), "PNG", save_all=True, append_images=[noise(2)]),
}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(file: Path, files: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file
