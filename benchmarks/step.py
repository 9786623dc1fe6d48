"""Seconds, memory and efficiency of a POA step beside a DINOv2 step of the same intact network.

    python benchmarks/step.py [--family vit|swin|resnet] [--rounds 3] [--threads 1] [--precision fp32]
    python benchmarks/step.py --beside-timm [--family swin]

One run alternates between the steps, on one thread in fp32 unless told otherwise: a POA step of a small
network of the family (batch 4, 2 x 224 and 8 x 96 pixel crops, half of the global crops masked, heads of 1024,
2048 and 4096 prototypes), averaged over four elastic students, and a DINOv2 step of the intact size with
one head of 4096. A step is all of it: three branches, clipping, AdamW, the teacher's average.

The GEMM peak is measured at the same shapes: each matrix product of a step is timed by itself. Peak memory
is the largest resident set of a separate process that takes two steps: the mean over the elastic students,
and the largest.

`--beside-timm` compares forward and backward passes of the elastic network, for its intact and for a narrow
member, with timm's network of the same sizes on the same images: 2 x 4 of 224 and 8 x 4 of 96 pixels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from poa_plugin.backbones import CropBatch
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.data.masking import shard_masks
from poa_plugin.elastic import Subnet
from poa_plugin.formats import formats_of
from poa_plugin.randomness import numpy_generator
from poa_plugin.ssl import POA
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step


@dataclass(frozen=True)
class Size:
    """The network of a family whose step is measured."""

    overrides: tuple[str, ...]
    students: tuple[str, ...]
    intact: str


SIZES = {
    "vit": Size(
        (
            "student.vit.min_width=192",
            "student.vit.max_width=384",
            "student.vit.min_depth=6",
            "student.vit.max_depth=12",
            "student.vit.drop_path_rate=0",
        ),
        ("w192_d6", "w256_d8", "w320_d10", "w384_d11"),
        "w384_d12",
    ),
    "swin": Size(
        (
            "student.swin.min_width=64",
            "student.swin.max_width=96",
            "student.swin.min_depth=2",
            "student.swin.max_depths=[2,2,6,2]",
            "student.swin.drop_path_rate=0",
        ),
        ("w64_d2", "w80_d3", "w80_d5", "w96_d5"),
        "w96_d6",
    ),
    "resnet": Size(
        ("student.resnet.min_depths=[2,2,3,2]", "student.resnet.max_depths=[3,4,6,3]"),
        ("w64_d2-2-3-2", "w64_d2-4-5-2", "w96_d3-3-4-2", "w128_d2-4-6-3"),
        "w128_d3-4-6-3",
    ),
}
COMMON = [
    "train.shards=1",
    "train.batch_size_per_shard=4",
    "ibot.start_epoch=0",
    "data.num_workers=0",
]


def student_overrides(family: str) -> list[str]:
    return [f"student.arch={family}", *SIZES[family].overrides, *COMMON]


OVERRIDES = {
    "POA": ["dino.head_n_prototypes=[1024,2048,4096]"],
    "DINOv2": [
        "dino.head_n_prototypes=[4096]",
        "dino.lambda_ie=1",
        *[f"loss.terms.{term}_elastic=false" for term in ("cross_view", "masked_patch", "koleo")],
        "loss.terms.same_view=false",
    ],
}


class Stepper:
    """A model, its optimizer and one batch, ready to take steps."""

    def __init__(self, overrides: Sequence[str], family: str = "vit") -> None:
        self.config = default_config([*student_overrides(family), *overrides])
        self.model: POA = build_model(self.config).train()
        self.optimizer = build_optimizer(self.model.get_params_groups(), self.config)
        self.values = Schedules(self.config)(1000)
        self.batch = batch(self.config, self.model.mask_grid)

    def step(self, subnet: Subnet) -> None:
        step = train_step(self.model, self.optimizer, [self.batch], self.values, [subnet])
        assert not step.non_finite


def batch(config: Config, grid: tuple[int, int]) -> dict[str, Any]:
    """Return one shard of noise with block masks."""
    generator = torch.Generator().manual_seed(0)
    size, crops = config.train.batch_size_per_shard, config.crops
    low, high = config.ibot.mask_ratio_min_max

    def images(number: int, side: int) -> Tensor:
        return torch.randn(number, 3, side, side, generator=generator)

    return {
        "collated_global_crops": images(2 * size, crops.global_crops_size),
        "collated_local_crops": images(crops.local_crops_number * size, crops.local_crops_size),
        "collated_masks": shard_masks(
            2 * size,
            grid,
            config.ibot.mask_sample_probability,
            (low, high),
            numpy_generator("masks"),
        ),
        "image_ids": list(range(size)),
    }


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Products(TorchDispatchMode):
    """Records the shapes of all matrix products, of attention and convolutions too."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            self.shapes[(*a.shape, b.shape[-1])] += 1
        elif "scaled_dot_product" in name:
            backward = "backward" in name
            q, k = args[1:3] if backward else args[:2]
            (b, h, n, d), m = q.shape, k.shape[2]
            # The forward pass multiplies twice; the backward pass five times, one of them anew.
            self.shapes[(b * h, n, d, m)] += 3 if backward else 1
            self.shapes[(b * h, n, m, d)] += 2 if backward else 1
        elif name in ("convolution", "convolution_backward"):
            weight = args[2 if "backward" in name else 1]
            grid = (args[0] if "backward" in name else out).shape
            n, k = grid[0] * grid[2] * grid[3], weight[0].numel()
            self.shapes[(n, k, len(weight)) if name == "convolution" else (len(weight), n, k)] += 1
        return out


def flops(shapes: Counter[tuple[int, ...]]) -> float:
    return sum(2.0 * torch.Size(shape).numel() * times for shape, times in shapes.items())


def gemm_seconds(shapes: Counter[tuple[int, ...]], repeats: int = 3) -> float:
    """Return how long the products alone take, each at the fastest of some runs."""
    total = 0.0
    for shape, times in shapes.items():
        a = torch.randn(shape[:-1])
        b = torch.randn(*shape[:-3], shape[-2], shape[-1])
        total += times * min(seconds(lambda a=a, b=b: a @ b) for _ in range(repeats))
    return total


def peak_of_this_process() -> float:
    """Return the largest resident set so far in bytes; getrusage's is inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return 1024.0 * int(match[1])


def peak_memory(
    overrides: list[str], family: str, subnet: Subnet, threads: int, queue: Any
) -> None:
    torch.set_num_threads(threads)
    stepper = Stepper(overrides, family)
    for _ in range(2):
        stepper.step(subnet)
    queue.put(peak_of_this_process())


def memory(overrides: list[str], family: str, subnet: Subnet, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(overrides, family, subnet, threads, queue))
    process.start()
    peak = queue.get()
    process.join()
    return float(peak)


GROUPS = {
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm)$",
    "attention": r"scaled_dot_product",
    "GELU": r"gelu",
    "layer norm": r"layer_norm",
    "copies and fills": r"aten::(copy_|fill_|zero_|cat|_index_put_impl_|index|index_select)$",
    "patch convolution": r"convolution",
    "softmax and losses": r"softmax|logsumexp|exp|log$",
    "AdamW, norms, the teacher's average": r"Adam|_foreach|_fused|linalg_vector_norm|lerp",
    "sums, products of elements": r"aten::(add|add_|mul|mul_|sub|div|sum|addcmul|addcdiv|sqrt)",
}


def profile(stepper: Stepper, subnet: Subnet) -> None:
    """Print where the time of one step goes: operations by group, then one by one."""
    with torch.profiler.profile() as trace:
        stepper.step(subnet)
    events = trace.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    self_times: Counter[str] = Counter()
    for event in events:
        group = next((name for name, p in GROUPS.items() if re.search(p, event.key)), "other")
        self_times[group] += event.self_cpu_time_total
    for group, took in self_times.most_common():
        print(f"{took / total:7.1%} {group}")
    print(events.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=55))


def beside_timm(family: str, rounds: int) -> None:
    """Print CPU seconds, forward and backward, of our network and of timm's of the same sizes."""
    import timm

    backbone = build_backbone(default_config(student_overrides(family))).train()
    crops = [torch.randn(8, 3, 224, 224), torch.randn(32, 3, 96, 96)]
    for name in (SIZES[family].intact, SIZES[family].students[1]):
        subnet = backbone.space[name]
        description = formats_of(family).timm(backbone.plain_options(subnet))
        arguments = dict(description.config["model_args"])
        flexible = "img_size" in arguments
        if flexible:
            arguments |= (
                {"strict_img_size": False} if family == "swin" else {"dynamic_img_size": True}
            )
        theirs = timm.create_model(
            description.config["architecture"], num_classes=0, **arguments
        ).train()
        description.adjust(theirs)

        def ours(subnet: Subnet = subnet) -> None:
            outs = backbone([CropBatch(images, subnet) for images in crops])
            sum(out["x_norm_clstoken"].square().sum() for out in outs).backward()

        def stock(network: Any = theirs) -> None:
            if family == "swin":  # its masks are made for one size
                sum(_swin(network, images).square().sum() for images in crops).backward()
            else:
                sum(network(images).square().sum() for images in crops).backward()

        took: dict[str, list[float]] = {"ours": [], "timm": []}
        for number in range(rounds + 1):  # the first warms up
            for which, run in (("ours", ours), ("timm", stock)):
                start = time.process_time()
                run()
                if number:
                    took[which].append(time.process_time() - start)
        ours_s, timm_s = (statistics.median(took[which]) for which in ("ours", "timm"))
        print(
            f"{family:7}{name:16} ours {ours_s:7.3f} s  timm {timm_s:7.3f} s  {ours_s / timm_s:5.2f} x"
        )


def _swin(network: Any, images: Tensor) -> Tensor:
    """Run timm's Swin on images of another size than its own."""
    network.set_input_size(tuple(images.shape[-2:]), always_partition=True)
    return network(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="vit", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--profile", action="store_true", help="of one POA and one DINOv2 step")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--beside-timm", action="store_true", help="networks alone, beside timm's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.beside_timm:
        beside_timm(options.family, options.rounds)
        return
    family, size = options.family, SIZES[options.family]
    precision = [f"train.precision={options.precision}"]
    overrides = {name: [*extra, *precision] for name, extra in OVERRIDES.items()}
    steppers = {name: Stepper(extra, family) for name, extra in overrides.items()}
    space = steppers["POA"].model.space
    students, intact = [space[name] for name in size.students], space[size.intact]
    assert intact == space.intact
    runs = [("POA", subnet) for subnet in students] + [("DINOv2", intact)]
    if options.profile:
        for name, member in (("POA", students[1]), ("DINOv2", intact)):
            print(f"{name} {member.name}")
            steppers[name].step(member)
            profile(steppers[name], member)
        return

    products, times = {}, {run: [] for run in runs}
    for name, subnet in runs:
        with Products() as seen:
            steppers[name].step(subnet)
        products[name, subnet] = seen.shapes
    print(f"{'':22} " + " ".join(f"round {i + 1}" for i in range(options.rounds)), flush=True)
    for _ in range(options.rounds):
        for name, subnet in runs:
            times[name, subnet].append(seconds(lambda n=name, s=subnet: steppers[n].step(s)))
    for (name, subnet), taken in times.items():
        print(f"{name:7}{subnet.name:15} " + " ".join(f"{value:7.3f}" for value in taken))

    medians = {run: statistics.median(taken) for run, taken in times.items()}
    poa = statistics.mean(medians["POA", subnet] for subnet in students)
    dino = medians["DINOv2", intact]
    print(
        f"\n{'':8}{'s/step':>8}{'GFLOP':>8}{'GFLOP/s':>9}{'GEMM peak':>11}{'of peak':>9}"
        f"{'GiB':>7}{'largest':>9}"
    )
    totals = {}
    for name, members in (("POA", students), ("DINOv2", [intact])):
        work = statistics.mean(flops(products[name, s]) for s in members)
        alone = statistics.mean(gemm_seconds(products[name, s]) for s in members)
        took = statistics.mean(medians[name, s] for s in members)
        peaks = [
            memory(overrides[name], family, s, options.threads) / 2**30
            for s in members
            if not options.no_memory
        ]
        gib = f"{statistics.mean(peaks):7.2f}{max(peaks):9.2f}" if peaks else ""
        totals[name] = work
        print(
            f"{name:8}{took:8.3f}{work / 1e9:8.0f}{work / took / 1e9:9.1f}{work / alone / 1e9:11.1f}"
            f"{alone / took:9.2f}{gib}"
        )
    print(f"\nPOA / DINOv2: time {poa / dino:.2f}, FLOPs {totals['POA'] / totals['DINOv2']:.2f}")


if __name__ == "__main__":
    main()
