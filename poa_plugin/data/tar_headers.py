"""The headers of a tar file, one small read each, up to its end or to where it is damaged.

`tarfile` takes a damaged header for the end of the archive, silently; and it takes about ten times as long,
which is minutes at each start with millions of headers.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
SEARCHED_BYTES, ADLER = 1 << 20, 65521
"""Bytes after an archive's end that are searched for another one; Adler-32's modulus."""
SIGNATURES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}
FILES, WITHOUT_CONTENT = b"\x00" + b"07", b"123456"


class Entry(NamedTuple):
    """A file in a tar: its name, where its content begins (-1: nowhere), its size, its first bytes."""

    name: bytes
    offset: int
    size: int
    start: bytes


class NoTarError(ValueError):
    """A file is no tar; the message is half a sentence that says what it is."""


class DamagedTarError(ValueError):
    """A tar file ends early or is damaged; the message is half a sentence that says where."""


def tar_entries(descriptor: int, size: int) -> Iterator[Entry]:
    """Yield the files of a tar that is not compressed, one whose content is cut off included.

    Formats are those of `tarfile`: ustar, GNU and pax, with long names. Links and sparse files have no
    content here.

    Args:
        descriptor: of an open file.
        size: of the file, in bytes.

    Raises:
        NoTarError: it is not a tar file.
        DamagedTarError: it ends early, or a header is damaged; what came before has been yielded.
        OSError: the disk cannot read it.
    """
    offset = 0
    extended: dict[bytes, bytes] = {}
    while (blocks := _blocks(descriptor, offset, size)) is not None:
        header, kind, content = blocks[:BLOCK], blocks[156:157], offset + BLOCK
        length = _size(header)
        if length is None:
            raise DamagedTarError(
                f"its header at byte {offset} is damaged, and what follows is not read"
            )
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            records = os.pread(descriptor, length, content)
            if len(records) < length:
                raise DamagedTarError(f"it ends within a header, after {size} bytes")
            if kind == b"L":
                extended[b"path"] = records.rstrip(b"\0")
            elif kind in (b"x", b"X"):
                extended |= _pax_records(records)
        else:
            length = int(extended.get(b"size", length))
            name = extended.get(b"path") or _name(header)
            if kind == b"S":
                content = _after_sparse_headers(descriptor, header, content)
            length = 0 if kind in WITHOUT_CONTENT else length
            if kind in b"12S" or b"sparse" in extended:
                yield Entry(name, -1, 0, b"")
            elif kind in FILES and not name.endswith(b"/"):
                yield Entry(name, content, length, blocks[BLOCK : BLOCK + length])
                if content + length > size:
                    raise DamagedTarError(
                        f"it ends in the middle of '{os.fsdecode(name)}', after {size} bytes"
                    )
            extended = {}
        offset = content + -(-length // BLOCK) * BLOCK


def _blocks(descriptor: int, offset: int, size: int) -> bytes | None:
    """Return the header at an offset and the block after it, or None at the archive's end."""
    blocks = os.pread(descriptor, 2 * BLOCK, offset)
    if offset == 0:
        _refuse_no_tar(blocks[:BLOCK])
    if len(blocks) < BLOCK:
        part = "within a header" if blocks else "without the mark of a tar's end"
        raise DamagedTarError(f"it ends {part}, after {size} bytes")
    if blocks[:BLOCK].strip(b"\0"):
        return blocks
    tail = os.pread(descriptor, SEARCHED_BYTES, offset)
    start = (len(tail) - len(tail.lstrip(b"\0"))) // BLOCK * BLOCK
    if _size(tail[start : start + BLOCK]) is not None:
        raise DamagedTarError(
            f"another archive follows its end at byte {offset}, and is not read (leave shards separate, "
            f"do not join them with 'cat')"
        )
    return None


def _refuse_no_tar(header: bytes) -> None:
    if not header:
        raise DamagedTarError("it is empty (0 bytes)")
    for signature, name in SIGNATURES.items():
        if header.startswith(signature):
            raise NoTarError(
                f"it is compressed ({name}); images are read by their offsets, which a compressed shard does "
                f"not have: unpack it to a plain .tar"
            )
    if _size(header) is None and header.strip(b"\0"):
        raise NoTarError("it is not a tar file, or is damaged at its very beginning")


def _size(header: bytes) -> int | None:
    """Return the size in a header, or None if it is not a header."""
    if len(header) < BLOCK:
        return None
    checksum_field, size_field = header[148:156], header[124:136]
    try:
        checksum = int(checksum_field.strip(b"\0 "), 8)
        if size_field[0] & 0x80:  # GNU's base 256
            size = int.from_bytes(bytes([size_field[0] & 0x7F]) + size_field[1:], "big")
        else:
            size = int(size_field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    # The checksum counts its own field as blanks. Adler-32's lower half is 1 + the sum of all bytes.
    expected = (1 + checksum + sum(checksum_field) - 8 * 32) % ADLER
    if zlib.adler32(header) & 0xFFFF == expected or _signed_sum(header) == checksum:
        return size
    return None


def _signed_sum(header: bytes) -> int:
    """Return the checksum of some old archivers, which treated bytes as signed numbers."""
    blanked = header[:148] + 8 * b" " + header[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in blanked)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_records(records: bytes) -> dict[bytes, bytes]:
    """Return a pax header's path and size, and `sparse` for a sparse file."""
    values: dict[bytes, bytes] = {}
    while records.strip(b"\0"):
        length, space, _ = records.partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length) <= len(records):
            raise DamagedTarError("one of its pax headers is damaged, and what follows is not read")
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            values[b"sparse"] = b"1"
        elif key == b"path" or (key == b"size" and value.isdigit()):
            values[key] = value
        records = records[int(length) :]
    return values


def _after_sparse_headers(descriptor: int, header: bytes, content: int) -> int:
    extends = header[482:483]
    while extends.strip(b"\0"):
        extends = os.pread(descriptor, 1, content + 504)
        content += BLOCK
    return content
