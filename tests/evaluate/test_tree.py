"""The prefix tree: the features of single evaluations, every node once, and one path's memory."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from poa_plugin.backbones import ElasticBackbone
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.memory import PeakMemory
from poa_plugin.evaluate.tree import PrefixTree, bytes_per_image, deepest_network
from poa_plugin.extraction.network import extract


def members(backbone: ElasticBackbone, width: int) -> list[Subnet]:
    return [subnet for subnet in backbone.space if subnet.width == width]


def test_features_equal_single_evaluations(backbone: ElasticBackbone) -> None:
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    seen = []
    with torch.no_grad():
        for width in backbone.space.widths:
            tree = PrefixTree.of(backbone, members(backbone, width))
            for subnet, features in tree.traverse(deepest_network(backbone, width), images):
                alone = extract(backbone, subnet)(images)["x_norm_clstoken"]
                elastic = backbone(images, subnet)["x_norm_clstoken"]
                assert torch.allclose(features, alone, atol=1e-5)
                assert torch.allclose(features, elastic, atol=1e-5)
                seen.append(subnet)
    assert sorted(seen) == sorted(backbone.space)


def test_each_node_runs_once(backbone: ElasticBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, network = PrefixTree.of(backbone, members(backbone, 48)), deepest_network(backbone, 48)
    calls: list[str] = []
    step = network.step
    monkeypatch.setattr(network, "step", lambda x, name: calls.append(name) or step(x, name))
    assert len(list(tree.traverse(network, torch.zeros(1, 3, 48, 48)))) == 3
    # depths 2, 3 and 4 of 4 blocks keep (0, 3), (0, 1, 3) and (0, 1, 2, 3)
    assert Counter(calls) == {"blocks.0": 1, "blocks.1": 1, "blocks.2": 1, "blocks.3": 3}
    assert calls == [node.module for node in tree.nodes()]
    assert (len(tree), tree.single_steps) == (6, 9)


class Chain:
    """A network whose features are the names of the modules that made them."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    def stem(self, images: Tensor) -> Tensor:
        return self._made(images.clone())

    def step(self, x: Tensor, name: str) -> Tensor:
        return self._made(x * 10 + int(name))

    def output(self, x: Tensor) -> dict[str, Tensor]:
        return {"x_norm_clstoken": x.clone()}

    def _made(self, x: Tensor) -> Tensor:
        self.alive.add(x)
        self.most = max(self.most, len(self.alive))
        return x


def walked(paths: dict[str, str], network: Any) -> dict[str, int]:
    subnets = {Subnet(1, i): list(path) for i, path in enumerate(paths.values())}
    names = list(paths)
    found = PrefixTree(subnets).traverse(network, torch.zeros(1))
    return {names[subnet.depth]: int(features) for subnet, features in found}


def test_any_tree_is_walked() -> None:
    paths = {"a": "12", "b": "1", "c": "", "d": "3", "e": "124", "f": "125"}
    found = walked(paths, Chain())
    assert found == {name: int(path or 0) for name, path in paths.items()}


def test_members_that_are_the_same_path_share_all_of_it() -> None:
    assert walked({"a": "12", "b": "12"}, Chain()) == {"a": 12, "b": 12}


@pytest.mark.parametrize("length", [3, 9])
def test_outputs_that_no_branch_needs_are_freed(length: int) -> None:
    """A path holds its input and its output; each branch beside it holds one more, whatever its length."""
    path = "123456789"[:length]
    chain = Chain()
    walked({"a": path}, chain)
    assert chain.most == 2
    assert not chain.alive
    branched = Chain()
    walked({"a": path, "b": path[:-1] + "0", "c": "9" + path, "d": "8" + path}, branched)
    assert branched.most == 3
    assert not branched.alive


def test_the_branch_that_keeps_most_comes_last() -> None:
    """Were a long one first, the outputs that the short ones go on from would be kept meanwhile: 5."""
    paths = {"a": "1111", "b": "1112", "c": "112", "d": "12", "e": "2"}
    chain = Chain()
    walked(paths, chain)
    assert chain.most == 2


def test_memory_is_linear_in_the_batch(backbone: ElasticBackbone) -> None:
    tree, network = PrefixTree.of(backbone, members(backbone, 48)), deepest_network(backbone, 48)
    one, four = (bytes_per_image(tree, network, torch.zeros(n, 3, 48, 48)) for n in (1, 4))
    assert four == 4 * one
    tokens = 4 * 37 * 48
    assert one > 4 * 3 * 48 * 48 + 2 * tokens


def test_what_lives_is_counted() -> None:
    with PeakMemory() as memory:
        x = torch.zeros(100)
        y = x.view(10, 10)
        assert memory.bytes == 400
        z = y * 2
        z += 1
        assert memory.bytes == 800
        del x, z
        assert memory.bytes == 400
        del y
    assert (memory.bytes, memory.peak) == (0, 800)
