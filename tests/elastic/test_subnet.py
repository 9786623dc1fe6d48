"""Search spaces: counts, names, sampling and sizes."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import lru_cache

import pytest
import torch

from poa_plugin.backbones import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic import SearchSpace, Subnet
from poa_plugin.elastic.subnet import select_blocks
from poa_plugin.errors import UserError


@pytest.fixture(scope="module")
def paper() -> ElasticBackbone:
    with torch.device("meta"):
        return build_backbone(default_config(["student.arch=vit"]))


def test_the_papers_space(paper: ElasticBackbone) -> None:
    space = paper.space
    assert len(space) == 143
    assert space.widths == list(range(384, 1025, 64))
    assert sum(space.multiplicities) == 573
    assert space.multiplicities[0] == 9
    assert space.multiplicities[-1] == 1
    assert space["small"] == Subnet(384, 12) == space["w384_d12"] == space["smallest"]
    assert space["base"] == Subnet(768, 12)
    assert space["large"] == Subnet(1024, 24) == space.intact
    assert space.width_ratio(space["base"]) == Fraction(3, 4)


def test_the_papers_swins_and_resnets() -> None:
    swin, resnet = paper_space("swin"), paper_space("resnet")
    assert (len(swin), sum(swin.multiplicities)) == (39, 89)
    assert (len(resnet), sum(resnet.multiplicities)) == (465, 699)
    assert swin["tiny"] == Subnet(96, 6) == swin["smallest"]
    assert swin["small"] == Subnet(96, 18)
    assert swin["base"] == Subnet(128, 18) == swin.intact
    assert resnet["r50"] == Subnet(64, depths=(3, 4, 6, 3)) == resnet["w64_d3-4-6-3"]
    assert resnet["r101"].depths == (3, 4, 23, 3)
    assert resnet["r152"].depths == (3, 8, 36, 3)
    assert resnet.intact == Subnet(128, depths=(3, 8, 36, 3))


@lru_cache
def paper_space(family: str) -> SearchSpace:
    with torch.device("meta"):
        return build_backbone(default_config([f"student.arch={family}"])).space


@pytest.mark.parametrize(
    ("family", "name", "params", "flops"),
    [
        ("vit", "small", 21.7e6, 4.6e9),
        ("vit", "base", 85.8e6, 17.6e9),
        ("swin", "tiny", 27.5e6, 4.5e9),
        ("resnet", "r50", 23.5e6, 4.1e9),
    ],
)
def test_sizes_of_the_papers_networks(family: str, name: str, params: float, flops: float) -> None:
    cost = paper_space(family).cost(paper_space(family)[name])
    assert cost.params == pytest.approx(params, rel=5e-3)
    assert cost.flops == pytest.approx(flops, rel=2e-2)


@pytest.mark.parametrize(
    ("family", "name", "params"),
    [
        ("vit", "large", 303e6),
        ("swin", "small", 48.9e6),
        ("swin", "base", 86.8e6),
        ("resnet", "r101", 42.5e6),
        ("resnet", "r152", 58.1e6),
        ("resnet", "intact", 172.6e6),
    ],
)
def test_parameters_of_the_papers_larger_networks(family: str, name: str, params: float) -> None:
    with torch.device("meta"):
        backbone = build_backbone(default_config([f"student.arch={family}"]))
        network = backbone.plain(backbone.space[name])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(params, rel=2e-3)


@pytest.mark.parametrize(
    ("full", "depth", "ids"),
    [
        (24, 12, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 23]),
        (18, 6, [0, 3, 6, 10, 13, 17]),
        (8, 4, [0, 2, 4, 7]),
        (36, 6, [0, 7, 14, 21, 28, 35]),
        (5, 1, [0]),
        (1, 1, [0]),
    ],
)
def test_block_selection(full: int, depth: int, ids: list[int]) -> None:
    assert select_blocks(full, depth) == ids


def test_block_selection_keeps_both_ends_and_never_repeats() -> None:
    for full in range(2, 80):
        for depth in range(2, full + 1):
            ids = select_blocks(full, depth)
            assert ids[0] == 0
            assert ids[-1] == full - 1
            assert len(set(ids)) == depth


def test_sampling_without_replacement_within_a_cycle(paper: ElasticBackbone) -> None:
    space = paper.space
    expected = Counter(dict(zip(space, space.multiplicities, strict=True)))
    del expected[space.intact]
    for cycle in range(2):
        steps = range(cycle * 572, (cycle + 1) * 572)
        assert Counter(space.sample(3, step, 1) for step in steps) == expected


def test_sampling_is_a_function_of_seed_step_and_shard(paper: ElasticBackbone) -> None:
    def draws(space: SearchSpace, seed: int, shard: int) -> list[Subnet]:
        return [space.sample(seed, step, shard) for step in range(60)]

    first = draws(paper.space, 0, 0)
    assert draws(paper.space, 0, 0) == first
    assert draws(paper.space, 1, 0) != first
    assert draws(paper.space, 0, 1) != first
    assert [paper.space.sample(0, 572 + step, 0) for step in range(60)] != first


def test_a_space_of_one_network_draws_the_intact_one() -> None:
    overrides = ["student.arch=vit", "student.vit.min_width=1024", "student.vit.min_depth=24"]
    with torch.device("meta"):
        space = build_backbone(default_config(overrides)).space
    assert len(space) == 1
    assert space.sample(0, 5, 0) == space.intact


def test_unknown_names_say_what_is_near(paper: ElasticBackbone) -> None:
    with pytest.raises(UserError, match=r"'smal'.*did you mean 'small'"):
        paper.space["smal"]
    with pytest.raises(UserError, match=r"'w384_d99'.*did you mean 'w384_d"):
        paper.space["w384_d99"]


@pytest.mark.parametrize(
    ("family", "name", "said"),
    [
        (
            "vit",
            "w400_d2",
            r"did you mean 'w384_d12'.*384 to 1024 in steps of 64; depths: 12 to 24\.",
        ),
        ("vit", "w500_d19", r"did you mean 'w512_d19'"),
        ("vit", "w80_d24", r"did you mean 'w384_d24'"),
        ("vit", "w8000_d13", r"did you mean 'w1024_d13'"),
        ("vit", "w416_d13", r"did you mean 'w384_d13'"),
        ("vit", "W390-D13", r"did you mean 'w384_d13'"),
        ("vit", "w384d12", r"did you mean 'w384_d12'"),
        ("swin", "w110_d7", r"did you mean 'w112_d7'.*Widths: 96, 112, 128; depths: 6 to 18\."),
        (
            "resnet",
            "w90_d3-4-22-3",
            r"'w96_d3-4-22-3'.*blocks of the stages: 3; 4 to 8; 6 to 36; 3\.",
        ),
        ("resnet", "w64_d3-9-40-4", r"did you mean 'w64_d3-8-36-3'"),
        ("resnet", "w64_d16", r"did you mean 'w64_d3-4-6-3'"),
        ("resnet", "r5", r"did you mean 'r50'"),
    ],
)
def test_sizes_that_no_member_has_say_which_is_nearest(family: str, name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"Unknown network '{name}': .*{said}"):
        paper_space(family)[name]


def test_names_aliases_and_members_are_in_a_space(paper: ElasticBackbone) -> None:
    space = paper.space
    for name in ("intact", "smallest", "small", "w384_d12", space.intact):
        assert name in space
        assert space[space[name]] == space[name]
    for unknown in ("tiny", "", "w384_d99", Subnet(384, 99), 384, None):
        assert unknown not in space
    with pytest.raises(UserError, match="not as a int"):
        space[384]  # type: ignore[index]


def test_names_of_several_depths() -> None:
    assert Subnet(64, depths=(3, 4, 6, 3)).name == "w64_d3-4-6-3"
    assert Subnet(64, depths=(3, 4, 6, 3)).total_depth == 16
