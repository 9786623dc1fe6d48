"""Seconds to open a data set of ImageNet's size, and the memory of each worker process that reads it.

    python benchmarks/open.py [--images 1280000] [--workers 4] [--folder /dev/shm]

Images are made up: empty files in 1,000 folders, lines of a list, members of tar shards (with their
classes). Each is opened in a process of its own by the code as it is and as it was (`Before...`: lists of
Python objects, a `Path` for each file, `tarfile`); tar shards are opened without an index and with one. Then
worker processes are forked; each draws an epoch's order and asks for the name and the class of every image.
What a worker has to itself (USS, from /proc/self/smaps_rollup) is read before and after.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from poa_plugin.config.load import default_config
from poa_plugin.data import FileList, ImageFolder, ImageNet, WebDataset
from poa_plugin.data.loader import Batches
from poa_plugin.randomness import numpy_generator

CLASSES, SHARD = 1000, 8700
MIB = 1 << 20


class Before:
    """A data set as it was: names and labels are lists."""

    names: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


class BeforeImageFolder(Before):
    def __init__(self, path: str, split: str) -> None:
        root = Path(path) / split
        files = [file.relative_to(root) for file in sorted(self.files(root))]
        self.names = [str(file) for file in files]
        classes = {name: i for i, name in enumerate(sorted({file.parts[0] for file in files}))}
        self.labels = [classes[file.parts[0]] for file in files]

    def files(self, folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from self.files(folder / entry.name)
                elif entry.name.lower().endswith(IMG_EXTENSIONS) and entry.is_file():
                    yield folder / entry.name


class BeforeImageNet(Before):
    def __init__(self, path: str, split: str) -> None:
        self.names, self.labels = [], []
        for label, folder in enumerate(sorted((Path(path) / split).iterdir())):
            with os.scandir(folder) as entries:
                found = sorted(e.name for e in entries if e.name.lower().endswith(IMG_EXTENSIONS))
            self.names += [f"{folder.name}/{name}" for name in found]
            self.labels += [label] * len(found)


class BeforeFileList(Before):
    def __init__(self, path: str, split: str) -> None:
        lines = [line.partition("\t") for line in Path(path).read_text("utf-8").splitlines()]
        self.names = [name.strip() for name, _, _ in lines]
        classes = {name: i for i, name in enumerate(sorted({kind for _, _, kind in lines}))}
        self.labels = [classes[kind] for _, _, kind in lines]


class BeforeWebDataset(Before):
    def __init__(self, path: str, split: str) -> None:
        self.names, self.labels, self.places = [], [], []
        for number, shard in enumerate(sorted(Path(path).iterdir())):
            images: dict[str, tarfile.TarInfo] = {}
            classes: dict[str, int] = {}
            with tarfile.open(shard, "r:") as archive:
                for info in archive:
                    stem, _, kind = info.name.rpartition("/")[2].partition(".")
                    if kind == "cls":
                        opened = archive.extractfile(info)
                        classes[stem] = int(opened.read()) if opened else -1
                    else:
                        images[stem] = info
            for key, info in images.items():
                self.places.append((number, info.offset_data, info.size))
                self.names.append(info.name)
                self.labels.append(classes[key])


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "image_folder": (BeforeImageFolder, ImageFolder),
    "imagenet": (BeforeImageNet, ImageNet),
    "file_list": (BeforeFileList, FileList),
    "webdataset": (BeforeWebDataset, WebDataset),
}


def name_of(number: int) -> tuple[str, str]:
    """Return the class and the file of an image, which look like ImageNet's."""
    wnid = f"n{1_000_000 + number % CLASSES * 7:08}"
    return wnid, f"{wnid}_{number // CLASSES * 13}.JPEG"


def make(kind: str, folder: Path, n: int) -> Path:
    """Make a data set up; return its path."""
    if kind in ("image_folder", "imagenet"):
        root = folder / "folder"
        if not root.exists():
            for number in range(n):
                wnid, file = name_of(number)
                if number < CLASSES:
                    (root / "train" / wnid).mkdir(parents=True)
                    (root / "val" / wnid).mkdir(parents=True)
                os.mknod(root / "train" / wnid / file)
        return root
    if kind == "file_list":
        file = folder / "list.txt"
        lines = (f"{'/'.join(name_of(i))}\t{name_of(i)[0]}\n" for i in range(n))
        file.write_text("".join(lines))
        return file
    shards = folder / "shards"
    shards.mkdir()
    for start in range(0, n, SHARD):
        shard = shards / f"{start // SHARD:06}.tar"
        with shard.open("wb") as file:
            for number in range(start, min(start + SHARD, n)):
                key = f"{name_of(number)[1]}".removesuffix(".JPEG")
                file.write(member(f"{key}.cls", b"%d" % (number % CLASSES)))
                file.write(member(f"{key}.jpg", b""))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
        os.utime(shard, (0, 0))
    return shards


def member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + padding


def unique_memory() -> int:
    """Return the bytes that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


class BeforeBatches(Batches):
    """Batches as they were: the order of an epoch is a list."""

    def _image_id(self, number: int) -> int:
        if not hasattr(self, "row"):
            self.row = numpy_generator("order", 0, 0).permutation(len(self.dataset)).tolist()
        return self.row[number]


def read_an_epoch(batches: Batches, answers: Any) -> None:
    """Ask for every image's name and class in an epoch's order, as a worker process does."""
    dataset, before = batches.dataset, unique_memory()
    for step in range(len(dataset) // batches.batch_size):
        for index in batches.image_ids(step, 0):
            dataset.name(index), dataset.labels[index]
    answers.put((before, unique_memory()))


def measure(kind: str, code: str, path: str, workers: int) -> dict[str, float]:
    """Open a data set and let workers read it; return seconds and MiB."""
    clocks = (time.perf_counter, time.process_time)
    began = [clock() for clock in clocks]
    dataset = KINDS[kind][code == "now"](path, "train")
    wall, processor = (clock() - start for clock, start in zip(clocks, began, strict=True))
    words = ("student.arch=vit", "train.shards=1", "train.batch_size_per_shard=1000")
    config = default_config(words)
    batches = (Batches if code == "now" else BeforeBatches)(config, dataset, (1, 1))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=read_an_epoch, args=(batches, answers)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    first, last = (sum(values) / workers / MIB for values in zip(*found, strict=True))
    return {
        "images": len(dataset),
        "wall": wall,
        "processor": processor,
        "at first": first,
        "after": last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--folder", type=Path, help="for what is made up; a temporary one")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "CODE", "PATH"))
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments.workers)))
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    print(f"{arguments.images} images, {arguments.workers} workers\n")
    heads = ("seconds to open", "of the processor", "MiB of a worker", "after an epoch")
    print(f"{'':21}" + "".join(f"{head:>18}" for head in heads))
    try:
        for kind in arguments.kinds:
            path = make(kind, folder, arguments.images)
            for code in ("before", "now", *(["now"] if kind == "webdataset" else [])):
                command = [sys.executable, __file__, "--workers", str(arguments.workers)]
                command += ["--measure", kind, code, str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                assert found["images"] == arguments.images
                figures = [found[key] for key in ("wall", "processor", "at first", "after")]
                print(f"{kind:13} {code:7}" + "".join(f"{x:18.2f}" for x in figures), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
