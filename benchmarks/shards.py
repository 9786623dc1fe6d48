"""Memory and time of a step by its number of shards.

    python benchmarks/shards.py [--shards 1 4 16 32] [--prototypes 8192 16384 32768] [--precision fp32]

A POA step of a small ViT on 8 images a shard (2 x 128 and 8 x 64 pixel crops, half of the global crops masked),
with heads of 57,344 prototypes in all, the largest of which is computed in chunks. Shards run one after
another, so memory is to be that of one shard and what is kept of every shard's teacher outputs, and time that
of as many steps of one shard.

Bytes are those of all tensors that a step makes and that live at once (on a GPU, what its allocator counts),
above weights; kept features are counted from their sizes. Crops wait on the host: `host` is what they take
there. Time is CPU seconds (on a GPU, the wall's) of a step, over shards, relative to steps of one shard before
and after it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.crops import masked_patches
from poa_plugin.data.masking import shard_masks
from poa_plugin.device import resolve_device
from poa_plugin.evaluate.memory import PeakMemory
from poa_plugin.randomness import numpy_generator
from poa_plugin.ssl import POA
from poa_plugin.train.parallel import build_model

TEMPERATURE = 0.05
OVERRIDES = [
    "student.arch=vit",
    "student.vit.min_width=192",
    "student.vit.max_width=256",
    "student.vit.min_depth=4",
    "student.vit.max_depth=6",
    "student.vit.drop_path_rate=0",
    "crops.global_crops_size=128",
    "crops.local_crops_size=64",
    "train.batch_size_per_shard=8",
    "ibot.start_epoch=0",
]


def shard_batch(config: Config, grid: tuple[int, int], shard: int) -> dict[str, Tensor]:
    """Return a shard's batch of noise on the host, as the loader makes it."""
    crops, images = config.crops, config.train.batch_size_per_shard
    generator = torch.Generator().manual_seed(shard)

    def noise(number: int, side: int) -> Tensor:
        return torch.randint(
            0, 256, (number, 3, side, side), generator=generator, dtype=torch.uint8
        )

    ratio = (config.ibot.mask_ratio_min_max[0], config.ibot.mask_ratio_min_max[1])
    rng = numpy_generator("masks", 0, 0, shard)
    masks = shard_masks(2 * images, grid, config.ibot.mask_sample_probability, ratio, rng)
    indices, weights = masked_patches(masks)
    return {
        "collated_global_crops": noise(2 * images, crops.global_crops_size),
        "collated_local_crops": noise(crops.local_crops_number * images, crops.local_crops_size),
        "collated_masks": masks,
        "mask_indices_list": indices,
        "masks_weight": weights,
    }


def kept_bytes(model: POA, batches: Sequence[dict[str, Tensor]]) -> int:
    """Return what is kept of the teacher's outputs: a bottleneck feature of each token and head."""
    tokens = sum(
        len(batch["collated_global_crops"]) + len(batch["mask_indices_list"]) for batch in batches
    )
    dino = model.config.dino
    size = 4 if model.config.train.precision == "fp32" else 2
    return tokens * len(dino.head_n_prototypes) * dino.head_bottleneck_dim * size


def take_step(model: POA, batches: Sequence[dict[str, Tensor]]) -> None:
    model.zero_grad(set_to_none=True)
    model.forward_backward(batches, TEMPERATURE)


def peak_bytes(model: POA, batches: Sequence[dict[str, Tensor]]) -> int:
    """Return the most bytes that a step's tensors take at once, gradients among them."""
    model.zero_grad(set_to_none=True)
    if model.step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take_step(model, batches)
        return torch.cuda.max_memory_allocated() - before
    with PeakMemory() as memory:
        take_step(model, batches)
    return memory.peak


def seconds(model: POA, batches: Sequence[dict[str, Tensor]], repeats: int = 1) -> float:
    """Return the time of a step."""
    on_gpu = model.step.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    for _ in range(repeats):
        take_step(model, batches)
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--prototypes", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heads = "[" + ",".join(map(str, options.prototypes)) + "]"
    config = default_config(
        [
            *OVERRIDES,
            f"dino.head_n_prototypes={heads}",
            f"train.precision={options.precision}",
            f"train.shards={max(options.shards)}",
        ]
    )
    model = build_model(config).to(resolve_device("auto")).train()
    batches: list[dict[str, Any]] = [
        shard_batch(config, model.mask_grid, shard) for shard in range(max(options.shards))
    ]
    take_step(model, batches[:1])
    one = peak_bytes(model, batches[:1])
    print(f"{model.chunk_width} prototypes at a time")
    print(
        f"{'shards':>6} {'MiB':>9} {'kept':>7} {'above 1 shard + kept':>21} {'host':>7}"
        f" {'s / shard':>10} {'of 1':>7}",
        flush=True,
    )
    for shards in options.shards:
        used = batches[:shards]
        peak, kept = peak_bytes(model, used), kept_bytes(model, used)
        host = sum(x.nbytes for batch in used for x in batch.values())
        repeats = max(2, shards // 4)
        around = [seconds(model, batches[:1], repeats)]
        took = seconds(model, used) / shards
        around.append(seconds(model, batches[:1], repeats))
        cells = [f"{x / 2**20:{width}.1f}" for x, width in ((peak, 9), (kept, 7), (host, 7))]
        print(
            f"{shards:6} {cells[0]} {cells[1]} {peak / (one + kept):19.3f} x {cells[2]}"
            f" {took:10.3f} {took / statistics.mean(around):5.3f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
