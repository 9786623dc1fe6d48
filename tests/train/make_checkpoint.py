"""Make the run of some KB that stands for a checkpoint format: `python -m tests.train.make_checkpoint v2`.

A change that raises `FORMAT_VERSION` adds a folder `tests/train/checkpoints/v<FORMAT_VERSION>`, which this
makes, to the earlier ones, which are never made anew. `v0` is of the last code without a version. Since `v2`
the checkpoint is in pieces, as three ranks write them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from poa_plugin.config.load import default_config, save_config
from poa_plugin.train.integrity import read_state, write_description
from poa_plugin.train.loop import train
from poa_plugin.train.manifest import KINDS, merge
from poa_plugin.train.pieces import to_write, write_pieces
from poa_plugin.train.placement import Held
from poa_plugin.train.rotation import partial_folder, publish
from poa_plugin.train.stored import open_tensors
from tests.conftest import SMALL

CHECKPOINTS = Path(__file__).with_name("checkpoints")
STEP, TOTAL, RANKS = 3, 8, 3
TINY = [
    *SMALL,
    "student.vit.min_width=4",
    "student.vit.max_width=8",
    "student.vit.width_step=4",
    "student.vit.head_dim=4",
    "student.vit.patch_size=4",
    "student.vit.min_depth=1",
    "student.vit.max_depth=2",
    "student.vit.drop_path_rate=0.2",
    "crops.global_crops_size=16",
    "crops.local_crops_size=8",
    "dino.head_n_prototypes=[6,8]",
    "dino.head_hidden_dim=8",
    "dino.head_bottleneck_dim=4",
    "data.dataset=blobs",
    "train.shards=2",
    "train.centering=centering",
    "train.loggers=[]",
    "train.log_period=4",
    f"train.checkpoint_period={STEP}",
    "train.keep_checkpoints=0",
    f"train.OFFICIAL_EPOCH_LENGTH={TOTAL // 2}",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
]
"""A recipe whose checkpoints hold all there can be: centers, moments, half a line of metrics."""


def make(folder: Path) -> None:
    """Train, and leave `config.yaml` and one checkpoint in a new folder."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        config = default_config([*TINY, f"output_dir={temporary}"])
        train(config)
        split(Path(temporary) / "ckpt", STEP, RANKS)
        shutil.copytree(Path(temporary) / "ckpt" / str(STEP), folder / "ckpt" / str(STEP))
    config.output_dir = "run"
    save_config(config, folder / "config.yaml")


def split(root: Path, step: int, ranks: int) -> None:
    """Write a checkpoint anew, as so many ranks would: the student and its moments sharded."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for kind in KINDS:
        with open_tensors(root / str(step), kind) as stored:
            tensors[kind] = {name: stored.read(name) for name in stored.shapes}
    partial = partial_folder(root, step)
    partial.mkdir()
    manifests = []
    for rank in range(ranks):
        parts = to_write({kind: whole(tensors[kind]) for kind in KINDS}, rank, ranks)
        for kind in KINDS:
            sharded = tensors[kind].keys() - whole(tensors[kind]).keys()
            held = {name: rows(tensors[kind][name], rank, ranks) for name in sorted(sharded)}
            parts[kind] |= {name: part for name, part in held.items() if part.tensor.numel()}
        manifests.append(write_pieces(partial, parts, step, rank, ranks))
    write_description(partial, read_state(root / str(step)), merge(manifests))
    publish(root, step)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dim() == 0 or name.startswith("teacher.")
    }


def rows(tensor: Tensor, rank: int, ranks: int) -> Held:
    """Return the rows that FSDP2 gives a rank."""
    each = -(-len(tensor) // ranks)
    start = min(rank * each, len(tensor))
    offset = (start, *[0] * (tensor.dim() - 1))
    return Held(tensor[start : start + each], offset, tuple(tensor.shape), is_everywhere=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the new folder under tests/train/checkpoints")
    make(CHECKPOINTS / parser.parse_args().name)
