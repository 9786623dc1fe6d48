"""Networks of one width as paths of a prefix tree: what their paths have in common runs once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone, PlainNetwork
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.memory import PeakMemory
from poa_plugin.extraction.network import extract


@dataclass(eq=False)
class Node:
    """One run of a module.

    Attributes:
        module: its name in the deepest network of the width.
        ends: the members whose paths end here.
        children: the modules that run on this one's output.
    """

    module: str
    ends: list[Subnet] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


class PrefixTree:
    """The members of one width, run together through the deepest network of that width.

    The traversal goes depth-first. An output is kept only while a branch that has not begun needs it; the last
    branch takes it over, and is the one that needs the most memory.

    Args:
        paths: for each member the names of the modules it runs, as `ElasticBackbone.member_path` gives
            them.
    """

    def __init__(self, paths: Mapping[Subnet, Sequence[str]]) -> None:
        self.paths = {subnet: tuple(path) for subnet, path in paths.items()}
        self.root = Node("")
        for subnet, path in self.paths.items():
            node = self.root
            for name in path:
                node = _child(node, name)
            node.ends.append(subnet)
        _order(self.root)

    @classmethod
    def of(cls, backbone: ElasticBackbone, members: Sequence[Subnet]) -> PrefixTree:
        """Return the tree of some members, which have one width."""
        return cls({subnet: backbone.member_path(subnet) for subnet in members})

    def __len__(self) -> int:
        """Return the modules that a traversal runs between stem and outputs."""
        return sum(1 for _ in self.nodes())

    @property
    def single_steps(self) -> int:
        """The modules that the members run when each is evaluated by itself."""
        return sum(len(path) for path in self.paths.values())

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes in the order of the traversal."""
        waiting = self.root.children[::-1]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children[::-1]

    def traverse(self, network: PlainNetwork, images: Tensor) -> Iterator[tuple[Subnet, Tensor]]:
        """Yield each member with its class-token features of a batch, (B, D).

        Args:
            network: the ordinary network of the deepest member of the width.
            images: (B, C, H, W) on the network's device.
        """
        x = network.stem(images)
        del images
        if self.root.ends:
            yield from _outputs(network, self.root, x)
        waiting = [(node, x) for node in reversed(self.root.children)]
        while waiting:
            node, x = waiting.pop()
            x = network.step(x, node.module)
            yield from _outputs(network, node, x)
            waiting += [(child, x) for child in reversed(node.children)]


def deepest_network(backbone: ElasticBackbone, width: int) -> PlainNetwork:
    """Return the ordinary network of the deepest member of a width, in evaluation mode."""
    members = [subnet for subnet in backbone.space if subnet.width == width]
    deepest = max(members, key=lambda subnet: subnet.total_depth)
    return cast(PlainNetwork, extract(backbone, deepest))


@torch.no_grad()
def bytes_per_image(tree: PrefixTree, network: PlainNetwork, image: Tensor) -> int:
    """Return the most memory that a traversal needs at once for one image, measured on (1, C, H, W)."""
    with PeakMemory() as memory:
        for _ in tree.traverse(network, image):
            pass
    return memory.peak + image.nbytes


def _child(node: Node, name: str) -> Node:
    for child in node.children:
        if child.module == name:
            return child
    node.children.append(Node(name))
    return node.children[-1]


def _order(root: Node) -> None:
    """Put the branch that has to keep the most outputs last: it need not keep its parent's as well."""
    order = [root]
    for node in order:  # grows: parents stand before their children
        order += node.children
    outputs: dict[Node, int] = {}
    for node in reversed(order):
        node.children.sort(key=lambda child: outputs[child])
        needs = [outputs[child] for child in node.children]
        outputs[node] = max([*(need + 1 for need in needs[:-1]), *needs[-1:], 1])


def _outputs(network: PlainNetwork, node: Node, x: Tensor) -> Iterator[tuple[Subnet, Tensor]]:
    for subnet in node.ends:
        features = network.output(x)["x_norm_clstoken"]
        assert features is not None
        yield subnet, features
