"""A sub-network is a value, and a search space is the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from torch import nn

from poa_plugin.elastic.cost import Cost, CostTable
from poa_plugin.elastic.names import in_words, parse_name
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.randomness import numpy_generator


@dataclass(frozen=True, order=True)
class Subnet:
    """One member of an elastic network: how wide, and how many blocks.

    `depth` counts the blocks that vary. A backbone in which several stages vary uses `depths` instead, the
    blocks of each stage.
    """

    width: int
    depth: int = 0
    depths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """`w384_d12`, or `w64_d3-4-6-3` where several stages vary."""
        return f"w{self.width}_d{'-'.join(map(str, self.depths)) or self.depth}"

    @property
    def total_depth(self) -> int:
        """The number of blocks by which networks of one width are ordered."""
        return sum(self.depths) if self.depths else self.depth


class SearchSpace:
    """The sub-networks of one elastic backbone, smallest first and the intact network last.

    Args:
        subnets: the members, in the order in which the published code lists them.
        multiplicities: how often each is in the list that training draws from.
        aliases: further names, such as `small`.
        plain: builds the ordinary network of a member, on the current default device.
        blocks: the names of the blocks of a member, as in `named_modules()` of the intact
            network.
        image_size: the default side, in pixels, at which FLOPs are counted.
    """

    def __init__(
        self,
        subnets: Sequence[Subnet],
        multiplicities: Sequence[int],
        aliases: Mapping[str, Subnet],
        plain: Callable[[Subnet], nn.Module],
        blocks: Callable[[Subnet], Sequence[str]],
        image_size: int,
    ) -> None:
        self._subnets = tuple(subnets)
        self.multiplicities = tuple(multiplicities)
        self._by_name = {subnet.name: subnet for subnet in self._subnets}
        self.aliases = {name: s for name, s in aliases.items() if s.name in self._by_name}
        self.aliases |= {"smallest": self._subnets[0], "intact": self.intact}
        self._by_any_name = {**self._by_name, **self.aliases}
        self._costs = CostTable(plain, blocks)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self._subnets)

    def __iter__(self) -> Iterator[Subnet]:
        return iter(self._subnets)

    def __contains__(self, subnet: object) -> bool:
        """Return whether something is a member, or the name or an alias of one."""
        if isinstance(subnet, Subnet):
            return self._by_name.get(subnet.name) == subnet
        return isinstance(subnet, str) and subnet in self._by_any_name

    def __getitem__(self, name: str | Subnet) -> Subnet:
        """Return the member of a name or an alias; a member is returned as it is.

        Raises:
            UserError: no member has this name, or the sub-network is not a member.
        """
        if isinstance(name, Subnet):
            if name in self:
                return name
            if name.name in self._by_any_name:
                raise UserError(f"{name} is not a member of this search space.")
            name = name.name
        if not isinstance(name, str):
            kind = type(name).__name__
            raise UserError(f"A network is given by its name or as a Subnet, not as a {kind}.")
        if name not in self._by_any_name:
            raise UserError(f"Unknown network '{name}': {self._nearest(name)}.")
        return self._by_any_name[name]

    def _nearest(self, name: str) -> str:
        """Return the end of a sentence on an unknown name: the nearest in size, or else in spelling."""
        size = parse_name(name)
        if size is None:
            return did_you_mean(name, [*self.aliases, *self._by_name])
        nearest = min(self._subnets, key=lambda subnet: size.distance(subnet))
        depths = list(zip(*(s.depths or (s.depth,) for s in self._subnets), strict=True))
        blocks = "blocks of the stages" if len(depths) > 1 else "depths"
        return (
            f"did you mean '{nearest.name}', the nearest? Widths: {in_words(self.widths)}; "
            f"{blocks}: {'; '.join(in_words(stage) for stage in depths)}"
        )

    @property
    def intact(self) -> Subnet:
        """The full network."""
        return self._subnets[-1]

    @property
    def widths(self) -> list[int]:
        """The distinct widths, in increasing order."""
        return sorted({subnet.width for subnet in self._subnets})

    def aliases_of(self, subnet: Subnet) -> list[str]:
        """Return the further names of a member."""
        return [name for name, other in self.aliases.items() if other == subnet]

    def width_ratio(self, subnet: Subnet) -> Fraction:
        """Return a member's width over the full width, exactly."""
        return Fraction(subnet.width, self.intact.width)

    def cost(self, subnet: Subnet, image_size: int | None = None) -> Cost:
        """Return parameters and FLOPs (multiply-adds of one image of this side) of a member."""
        deepest = max((s for s in self if s.width == subnet.width), key=lambda s: s.total_depth)
        return self._costs.cost(subnet, deepest, image_size or self.image_size)

    @cached_property
    def _pool(self) -> list[Subnet]:
        """The list that training draws from: each member by its multiplicity, less the intact one."""
        pairs = zip(self._subnets, self.multiplicities, strict=True)
        return [subnet for subnet, times in pairs for _ in range(times)][:-1]

    def sample(self, seed: int, step: int, shard: int) -> Subnet:
        """Return the elastic student of one step and shard: a pure function of its arguments.

        Each shard goes through shuffles of the pool from end to end, so that within a cycle of `pool`
        steps each entry is drawn exactly once (published code: a shuffled list per GPU).
        """
        pool = self._pool or [self.intact]
        cycle, position = divmod(step, len(pool))
        order = numpy_generator("subnet", seed, shard, cycle).permutation(len(pool))
        return pool[order[position]]


def grid_multiplicities(n_widths: int, n_depths: int, scale: float) -> list[int]:
    """Return how often each member of a width x depth grid is listed, width-major.

    Both factors fall linearly from `scale` at the smallest to 1 at the largest; their product is
    rounded half to even (published recipe for 11 x 13 networks: 3, which makes 573 entries).
    """
    by_width, by_depth = np.linspace(scale, 1, n_widths), np.linspace(scale, 1, n_depths)
    return [int(times) for times in np.round(np.outer(by_width, by_depth)).ravel()]


def select_blocks(full_depth: int, depth: int) -> list[int]:
    """Return the indices of the blocks of a network of `depth`, at equal intervals (POA eq. 4).

    Integer arithmetic: the first and the last block are always kept, and no rounding of floats can
    drop one. A depth of 1 keeps block 0.
    """
    if depth == 1:
        return [0]
    return [(full_depth - 1) * j // (depth - 1) for j in range(depth)]
