"""What `poa checkpoint` finds and prints: a run's checkpoints, what one consists of, and which are damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from poa_plugin.errors import UserError
from poa_plugin.files import reading
from poa_plugin.sizes import short
from poa_plugin.train.checkpoint import damage, steps
from poa_plugin.train.integrity import FORMAT_KEY, NewerFormatError, read_manifest, read_state
from poa_plugin.train.manifest import MODEL, OPTIMIZER, Entry, Manifest

BRANCHES = ("student", "teacher")


class Chosen(NamedTuple):
    """Checkpoints that a command is about: of which run, and the steps, in order."""

    run: Path
    steps: list[int]

    @property
    def root(self) -> Path:
        """The folder of all checkpoints of the run."""
        return self.run / "ckpt"

    @property
    def newest(self) -> Path:
        """The folder of the newest of them."""
        return self.root / str(self.steps[-1])


def choose(path: Path, step: int | None = None) -> Chosen:
    """Return the checkpoints that a path and a step stand for: all of a run, or a single one.

    Args:
        path: a run's folder, or the folder `ckpt/STEP` in it.
        step: of a single one; None for all.

    Raises:
        UserError: there are none, or none of this step; those that exist are named.
    """
    run, named = path, step
    if path.parent.name == "ckpt" and path.name.isdecimal():
        run, named = path.parent.parent, int(path.name)
        if step not in (None, named):
            raise UserError(f"'{path}' is the checkpoint of step {named}, and --step is {step}.")
    present = steps(run / "ckpt")
    if not present:
        raise UserError(f"'{run}' has no checkpoint yet under ckpt/.")
    if named is not None and named not in present:
        existing = ", ".join(map(str, present))
        raise UserError(f"'{run}' has no checkpoint of step {named}; there are {existing}.")
    return Chosen(run, present if named is None else [named])


def description(folder: Path) -> str:
    """Return what a checkpoint consists of, as a text of some lines; its files are not compared.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: it cannot be read.
    """
    try:
        with reading(folder):
            state, manifest = read_state(folder), read_manifest(folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
    except (ValueError, KeyError) as error:
        raise UserError(f"The checkpoint '{folder}' cannot be read: {error}.") from error
    ranks = f"{manifest.ranks} ranks" if manifest.ranks > 1 else "one process"
    origin = f", imported ({state.get('format') or 'format not recorded'})"
    lines = [
        f"checkpoint  {folder}",
        f"step        {manifest.step}{origin if state.get('imported') else ''}",
        f"format      version {state.get(FORMAT_KEY, 1)}",
        f"written by  {ranks}{', consolidated' if manifest.weights else ''}",
        f"files       {len(manifest.files)} of tensors, {short(size)} bytes with the others",
        "",
        f"{'tensors of':<12} {'number':>6} {'values':>8} {'bytes':>8}",
    ]
    lines += [
        f"{name:<12} {len(entries):>6} {short(sum(entry.numel for entry in entries)):>8} "
        f"{short(sum(entry.bytes for entry in entries)):>8}"
        for name, entries in _groups(manifest)
        if entries
    ]
    every = [entry for named in manifest.tensors.values() for entry in named.values()]
    types = Counter(entry.dtype for entry in every).most_common()
    lines += ["", "types: " + ", ".join(f"{number} {dtype}" for dtype, number in types)]
    return "\n".join(lines)


def verification(chosen: Chosen) -> Iterator[tuple[str, bool]]:
    """Compare checkpoints with their checksums; yield, for each, a line about it and whether it is intact.

    Raises:
        UnreadableError: one may not be read, or not now.
    """
    for step in chosen.steps:
        folder = chosen.root / str(step)
        try:
            problem = damage(folder)
        except NewerFormatError as error:
            yield f"step {step}: not compared. {error}", False
            continue
        if problem is None:
            manifest = read_manifest(folder)
            n_bytes = sum(int(entry["bytes"]) for entry in manifest.files.values())
            yield f"step {step}: intact, {len(manifest.files)} files, {short(n_bytes)} bytes", True
        else:
            yield f"step {step}: damaged: {problem}", False


def _groups(manifest: Manifest) -> list[tuple[str, list[Entry]]]:
    """Return the tensors of each branch of the model, its others, and the optimizer's."""
    model = manifest.tensors[MODEL]
    groups = {
        branch: [entry for name, entry in model.items() if name.startswith(f"{branch}.")]
        for branch in BRANCHES
    }
    others = [entry for name, entry in model.items() if name.split(".")[0] not in BRANCHES]
    return [
        *groups.items(),
        ("others", others),
        ("optimizer", list(manifest.tensors[OPTIMIZER].values())),
    ]
