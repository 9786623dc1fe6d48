"""What is in a tar shard, read from its headers once and stored in a file for the next start."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from poa_plugin.data.labels import MOST_CLASSES, Array
from poa_plugin.data.left_out import IMAGE_ENDINGS, LeftOut
from poa_plugin.data.names import printable
from poa_plugin.data.reading import reason_of
from poa_plugin.data.tar_headers import DamagedTarError, Entry, NoTarError, tar_entries
from poa_plugin.errors import UserError

MAGIC = b"poa_plugin shard index 1\n"
FRESH = 2.0
"""Seconds: a shard that was written so recently could change again and keep its time, so no index is stored."""


class ShardIndex(NamedTuple):
    """The M images of a shard, in its order.

    Attributes:
        offsets, sizes: (M,), bytes.
        labels: (M,), class numbers; -1 where an image has none.
        names: as `Names` takes them.
        damage: how the shard is damaged, half a sentence; empty if it is intact.
        left_out: files of other endings, and second images of a key.
    """

    offsets: Array
    sizes: Array
    labels: Array
    names: bytes
    damage: str
    left_out: LeftOut


def shard_index(shard: Path) -> ShardIndex:
    """Return what is in a shard, from the file of an earlier start if that is still valid.

    That file lies in `.poa_index` beside the shard or, where that cannot be written, under
    `$XDG_CACHE_HOME/poa_plugin` or `~/.cache/poa_plugin`; where none can be written, there is none. It
    holds for a shard of the same size and time of change (in nanoseconds).

    Raises:
        UserError: the shard cannot be read, is not a tar file, or a class in it is not a number.
    """
    try:
        with shard.open("rb", buffering=0) as opened:
            state = os.fstat(opened.fileno())
            stamp = (state.st_size, state.st_mtime_ns)
            for place in _places(shard):
                index = _read(place, stamp)
                if index is not None:
                    return index
            index = _index(shard, opened.fileno(), state.st_size)
            after = os.fstat(opened.fileno())
    except OSError as error:
        raise UserError(f"The shard '{shard}' cannot be read: {reason_of(error)}.") from error
    except NoTarError as error:
        raise UserError(f"The shard '{shard}' cannot be read: {error}.") from error
    settled = time.time_ns() - stamp[1] > FRESH * 1e9
    if settled and stamp == (after.st_size, after.st_mtime_ns):
        _store(index, stamp, shard)
    return index


def _index(shard: Path, descriptor: int, size: int) -> ShardIndex:
    """Read the headers of a shard."""
    images: dict[tuple[bytes, bytes], Entry] = {}
    classes: dict[tuple[bytes, bytes], int] = {}
    left_out, damage = LeftOut(), ""
    endings = {ending[1:].encode() for ending in IMAGE_ENDINGS}
    try:
        for entry in tar_entries(descriptor, size):
            folder, _, name = entry.name.rpartition(b"/")
            stem, _, kind = name.partition(b".")
            if not stem:
                continue
            if kind == b"cls":
                if 0 <= entry.offset <= size - entry.size:
                    classes[folder, stem] = _class(shard, descriptor, entry)
            elif kind.lower() not in endings:
                _leave_out(left_out, entry.name, kind)
            elif entry.offset < 0:
                left_out.add("a link or sparse file in a tar", os.fsdecode(entry.name))
            elif (folder, stem) in images:
                left_out.add("a second image of a key", os.fsdecode(entry.name))
            else:
                images[folder, stem] = entry
    except DamagedTarError as error:
        n_intact = sum(entry.offset + entry.size <= size for entry in images.values())
        damage = f"{error}; {n_intact} images before that are intact"
    if damage and classes and images:  # the last image's class may be what was cut off
        last = next(reversed(images))
        if last not in classes:
            lost = images.pop(last)
            left_out.add("an image whose class is cut off", os.fsdecode(lost.name))
    entries = images.values()
    return ShardIndex(
        np.array([entry.offset for entry in entries], np.int64),
        np.array([entry.size for entry in entries], np.int64),
        np.array([classes.get(key, -1) for key in images], np.int64),
        b"".join([entry.name + b"\0" for entry in entries]),
        damage,
        left_out,
    )


def _leave_out(left_out: LeftOut, path: bytes, kind: bytes) -> None:
    """Count a file that is not used: under its full ending, `.mask.png`, if that ends as an image does."""
    name = os.fsdecode(path)
    ending = f".{os.fsdecode(kind).lower()}"
    if ending.endswith(IMAGE_ENDINGS):
        left_out.add(ending, name)
    else:
        left_out.add_file(name.rpartition("/")[2], name)


def _class(shard: Path, descriptor: int, entry: Entry) -> int:
    """Return the number in a `.cls` file."""
    content = entry.start
    if len(content) < entry.size:
        content = os.pread(descriptor, entry.size, entry.offset)
    try:
        label = int(content)
    except ValueError:
        label = -1
    if not 0 <= label < MOST_CLASSES:
        shown = printable(os.fsdecode(content[:20].strip()))
        raise UserError(
            f"The shard '{shard}' cannot be used: its file '{printable(os.fsdecode(entry.name))}' holds "
            f"'{shown}', not the number of a class (0 to {MOST_CLASSES - 1})."
        )
    return label


def _places(shard: Path) -> list[Path]:
    """Return where the file of a shard's index may lie, the preferred place first."""
    absolute = shard.absolute()
    beside = absolute.parent / ".poa_index" / f"{absolute.name}.index"
    caches = [os.environ.get("XDG_CACHE_HOME") or "", os.path.expanduser("~/.cache")]  # noqa: PTH111
    name = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:32]
    usable = [cache for cache in caches if os.path.isabs(cache)][:1]  # noqa: PTH117
    return [beside, *(Path(cache) / "poa_plugin" / "shards" / f"{name}.index" for cache in usable)]


def _read(place: Path, stamp: tuple[int, int]) -> ShardIndex | None:
    """Return a stored index, or None if there is none, it is of another state of the shard, or damaged."""
    try:
        content = place.read_bytes()
    except OSError:  # it is rebuilt
        return None
    start = len(MAGIC) + 8
    if not content.startswith(MAGIC) or content[len(MAGIC) : start] != _checksum(content[start:]):
        return None
    head, _, payload = content[start:].partition(b"\n")
    facts = json.loads(head)
    n_images = facts["images"]
    if facts["stamp"] != list(stamp) or len(payload) != 24 * n_images + facts["bytes_of_names"]:
        return None
    offsets, sizes, labels = (
        np.frombuffer(payload, "<i8", 3 * n_images).reshape(3, -1).astype(np.int64)
    )
    names = payload[24 * n_images :]
    return ShardIndex(offsets, sizes, labels, names, facts["damage"], LeftOut(**facts["left_out"]))


def _store(index: ShardIndex, stamp: tuple[int, int], shard: Path) -> None:
    """Write an index to the first place that can be written; processes may do so at the same time."""
    facts = {
        "stamp": stamp,
        "images": len(index.offsets),
        "bytes_of_names": len(index.names),
        "damage": index.damage,
        "left_out": index.left_out.state(),
    }
    arrays = np.stack([index.offsets, index.sizes, index.labels]).astype("<i8").tobytes()
    body = json.dumps(facts).encode() + b"\n" + arrays + index.names
    for place in _places(shard):
        partial = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(MAGIC + _checksum(body) + body)
            partial.replace(place)
        except OSError:  # not writable, or full: an index saves time and is not needed
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        else:
            return


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)
