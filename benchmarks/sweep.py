"""Features of all depths of a width: the walk of the prefix tree beside single evaluations.

    python benchmarks/sweep.py [--family vit] [--widths 384 512] [--image-size 96] [--images 16] [words]

One run alternates, for each width, between one walk of the tree and all extracted networks one by one, on the
same images; features are compared (1e-5, relative to their scale where it is above 1). Extraction is no part of
the times, which are those of the fastest round of each: what else the machine does only adds to them.

The bound is the tree's multiply-adds over the sum of the members', counted by fvcore: a walk that wastes
nothing takes that share of the time. CPU is the same quotient for the processor's time, which other processes
on the machine lengthen less. Weights are drawn at random: times do not depend on them. MB/image is what
a walk needs at most at once beside the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import poa_plugin.builtin  # noqa: F401  (registers the backbones)
from poa_plugin.backbones.base import ElasticBackbone, PlainNetwork
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic.cost import count
from poa_plugin.evaluate.tree import PrefixTree, bytes_per_image, deepest_network
from poa_plugin.extraction.network import extract
from poa_plugin.registry import BACKBONES

TOLERANCE = 1e-5


class Stem(nn.Module):
    """The stem alone, to count its work."""

    def __init__(self, network: PlainNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.stem(images)


def seconds(run: Callable[[], Any]) -> tuple[Tensor, Any]:
    """Return the seconds that pass and those of the processor, and what was returned."""
    start = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
    out = run()
    end = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
    return end - start, out


def flops(backbone: ElasticBackbone, width: int, image_size: int) -> tuple[int, int]:
    """Return multiply-adds of one image: of the tree's walk, and of all members one by one."""
    members = [subnet for subnet in backbone.space if subnet.width == width]
    tree, network = PrefixTree.of(backbone, members), deepest_network(backbone, width)
    by_module = count(network, image_size)[1]
    stem = count(Stem(network), image_size)[1][""]
    output = by_module[""] - stem - sum(by_module[name] for name in network.path())
    walk = stem + sum(by_module[node.module] for node in tree.nodes()) + output * len(members)
    return walk, sum(backbone.space.cost(subnet, image_size).flops for subnet in members)


def compare(backbone: ElasticBackbone, width: int, images: Tensor, rounds: int) -> None:
    """Print a width's times and ratios; fail if the features differ."""
    members = [subnet for subnet in backbone.space if subnet.width == width]
    tree, network = PrefixTree.of(backbone, members), deepest_network(backbone, width)
    walks, alone, apart = [], [], 0.0
    for number in range(1 + rounds):  # the first warms up
        walk, shared = seconds(lambda: dict(tree.traverse(network, images)))
        single = torch.zeros(2, dtype=torch.float64)
        for subnet in members:
            own = extract(backbone, subnet)
            took, out = seconds(lambda own=own: own(images)["x_norm_clstoken"])
            single += took
            scale = max(1.0, float(out.abs().max()))
            apart = max(apart, float((shared[subnet] - out).abs().max()) / scale)
        if number:
            walks.append(walk)
            alone.append(single)
    assert apart <= TOLERANCE, f"width {width}: features differ by {apart}"
    walk, single = (torch.stack(times).amin(dim=0) for times in (walks, alone))
    ratio, cpu = (walk / single).tolist()
    walked, summed = flops(backbone, width, images.shape[-1])
    bound = walked / summed
    each = bytes_per_image(tree, network, images[:1]) / 1e6
    steps = f"{len(tree)} of {tree.single_steps} ({len(tree) / tree.single_steps:.3f})"
    print(
        f"{width:>6}{len(members):>9}  {steps:<20}{bound:7.3f}{walk[0]:9.3f} s"
        f"{single[0]:9.3f} s{ratio:7.3f}{ratio / bound:9.3f}{cpu / bound:7.3f} {apart:9.1e}{each:9.1f}",
        flush=True,
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=BACKBONES.names(), metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, help="of the family's; all if left out")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=16, help="in one batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*", metavar="key=value", help="of the configuration")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    for family in options.family:
        size = f"crops.global_crops_size={options.image_size}"
        torch.manual_seed(0)
        config = default_config([f"student.arch={family}", size, *options.words])
        backbone = build_backbone(config).eval()
        images = torch.randn(options.images, 3, options.image_size, options.image_size)
        print(f"{family}: {options.images} images of {options.image_size} pixels")
        print(
            f"{'width':>6}{'networks':>9}  {'modules run':<20}{'bound':>7}{'tree':>11}{'single':>11}"
            f"{'ratio':>7}{'/ bound':>9}{'CPU':>7}{'differ':>10}{'MB/image':>9}"
        )
        for width in options.widths or backbone.space.widths:
            compare(backbone, width, images, options.rounds)


if __name__ == "__main__":
    main()
