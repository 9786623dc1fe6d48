"""Time, bytes and memory of a step on 1, 2 and 4 ranks.

    python benchmarks/scaling.py [--ranks 1 2 4] [--ways replicate fsdp2] [--shards 4] [--steps 3]

A POA step of a small ViT, on gloo ranks of one thread each. Bytes are those that collectives put in, counted at
torch.distributed's functions: of gathers what a rank gets, of reductions what it gives. Beside those of FSDP2
stands the bound: the teacher's weights gathered once for each shard of a rank, the students' once forward and
once backward (with resharding) for each shard, and one reduction of gradients a step, whatever the number of
students. Seconds are the wall's, which tell of scaling only where there is a core for each rank. Memory is the
largest resident set of a rank.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from poa_plugin import ranks
from poa_plugin.config.load import default_config
from poa_plugin.crops import masked_patches
from poa_plugin.data.masking import shard_masks
from poa_plugin.randomness import numpy_generator
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step

OVERRIDES = [
    "student.arch=vit",
    "student.vit.min_width=192",
    "student.vit.max_width=384",
    "student.vit.min_depth=3",
    "student.vit.max_depth=6",
    "student.vit.patch_size=16",
    "crops.global_crops_size=128",
    "crops.local_crops_size=64",
    "crops.local_crops_number=4",
    "dino.head_n_prototypes=[4096,8192]",
    "ibot.start_epoch=0",
    "train.batch_size_per_shard=4",
    "train.precision=fp32",
    "train.device=cpu",
    "train.joint_students=true",
]
GATHERS = ("all_gather_single", "all_gather_into_tensor")
SCATTERS = ("reduce_scatter_single", "reduce_scatter_tensor")


def counted(counts: Counter[str]) -> None:
    """Count the bytes of torch.distributed's collectives."""

    def wrap(name: str, kind: str, size: Callable[..., int]) -> None:
        function = getattr(dist, name, None)
        if function is None:
            return

        def counting(*arguments: Any, **keywords: Any) -> Any:
            counts[kind] += size(*arguments, **keywords)
            return function(*arguments, **keywords)

        setattr(dist, name, counting)

    def first(*arguments: Any, **keywords: Any) -> int:
        tensors = [x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor)]
        return tensors[0].nbytes

    def largest(*arguments: Any, **keywords: Any) -> int:
        tensors = [x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor)]
        return max(x.nbytes for x in tensors)

    for name in GATHERS:
        wrap(name, "gathered", largest)
    for name in SCATTERS:
        wrap(name, "reduced", largest)
    wrap("all_reduce", "reduced", first)


def work(rank: int, world: int, port: int, way: str, shards: int, steps: int, results: Any) -> None:
    """Take steps on one rank, and send what they took."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    config = default_config([*OVERRIDES, f"train.shards={shards}", f"train.parallel={way}"])
    with ranks.joined(torch.device("cpu"), 600):
        model = build_model(config).train()
        optimizer = build_optimizer(model.get_params_groups(), config)
        student = sum(p.numel() for p in model.student.parameters()) * 4
        mine, schedules, seconds = ranks.my_shards(shards), Schedules(config), []
        for step in range(steps + 1):
            if step == 1:
                counted(counts)
            subnets = model.sample_subnets(shards)[mine.start : mine.stop]
            began = time.perf_counter()
            batches = [batch(config, model.mask_grid, step, shard) for shard in mine]
            train_step(model, optimizer, batches, schedules(step), subnets)
            seconds.append(time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        per_step = {kind: size / steps for kind, size in counts.items()}
        results.put((rank, statistics.median(seconds[1:]), per_step, peak, student, len(mine)))
        ranks.wait_for_all()


def batch(config: Any, grid: tuple[int, int], step: int, shard: int) -> dict[str, torch.Tensor]:
    """Return a shard's batch of noise."""
    generator = torch.Generator().manual_seed(1000 * step + shard)
    images, crops = config.train.batch_size_per_shard, config.crops
    masks = shard_masks(2 * images, grid, 0.5, (0.1, 0.5), numpy_generator("masks", 0, step, shard))
    ids, weights = masked_patches(masks)

    def noise(views: int, side: int) -> torch.Tensor:
        size = (views * images, 3, side, side)
        return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)

    return {
        "collated_global_crops": noise(2, crops.global_crops_size),
        "collated_local_crops": noise(crops.local_crops_number, crops.local_crops_size),
        "collated_masks": masks,
        "mask_indices_list": ids,
        "masks_weight": weights,
    }


def measure(world: int, way: str, shards: int, steps: int) -> list[tuple[Any, ...]]:
    """Return what each rank sent."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (world, port, "none" if world == 1 else way, shards, steps, results)
    processes = [context.Process(target=work, args=(rank, *arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    rows = sorted(results.get(timeout=1800) for _ in processes)
    for process in processes:
        process.join()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--ways", nargs="+", default=["replicate", "fsdp2"])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':18}{'s / step':>10}{'gathered':>12}{'reduced':>12}{'bound':>22}{'peak':>12}")
    for way in options.ways:
        for world in options.ranks:
            if world == 1 and way != options.ways[0]:
                continue
            rows = measure(world, way, options.shards, options.steps)
            seconds = max(row[1] for row in rows)
            moved = {k: rows[0][2].get(k, 0) / 2**20 for k in ("gathered", "reduced")}
            peak, student, mine = max(row[3] for row in rows), rows[0][4] / 2**20, rows[0][5]
            bound = ""
            if world > 1:
                gathers = 3 * mine * student if way == "fsdp2" else 0
                bound = f"{gathers:.0f} + {student:.0f} MiB"
            name = f"{world} {'alone' if world == 1 else way}"
            print(
                f"{name:18}{seconds:10.2f}{moved['gathered']:8.1f} MiB{moved['reduced']:8.1f} MiB"
                f"{bound:>22}{peak:8.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
