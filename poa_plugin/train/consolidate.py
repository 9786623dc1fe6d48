"""Rewriting a checkpoint of several pieces as the files of one process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import flush, writing
from poa_plugin.train.integrity import (
    FORMAT_KEY,
    damage,
    read_manifest,
    read_state,
    write_description,
)
from poa_plugin.train.manifest import KINDS, merge
from poa_plugin.train.pieces import write_pieces
from poa_plugin.train.placement import held
from poa_plugin.train.rotation import partial_folder, publish
from poa_plugin.train.stored import open_tensors
from poa_plugin.train.writing import remove_unfinished


def consolidate(root: Path, step: int) -> bool:
    """Replace a checkpoint by one with `model.safetensors` and `optimizer.safetensors` of whole tensors.

    A kill at any moment leaves the former or the new one. Call it only where no other process writes
    checkpoints in this folder. All weights, or all moments, are in memory at a time.

    Args:
        root: the run's `ckpt` folder.
        step: of the checkpoint.

    Returns:
        Whether it was rewritten: False if it has these files already.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: it is damaged, or the disk refuses; it is left as it is.
    """
    folder, partial = root / str(step), partial_folder(root, step)
    if reason := damage(folder):
        raise UserError(f"The checkpoint '{folder}' is damaged: {reason}. It is left as it is.")
    former = read_manifest(folder)
    if former.is_whole:
        return False
    state = {key: value for key, value in read_state(folder).items() if key != FORMAT_KEY}
    try:
        with writing(partial, "The checkpoint is left as it is."):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            written = []
            for kind in KINDS:
                with open_tensors(folder, kind) as stored:
                    parts = {name: held(stored.read(name)) for name in stored.shapes}
                written.append(write_pieces(partial, {kind: parts}, step, rank=0, ranks=1))
            manifest = replace(merge(written), weights=former.weights_checksum())
            write_description(partial, state, manifest)
            flush(partial)
            publish(root, step)
    except BaseException:
        remove_unfinished(root, step)
        raise
    return True
