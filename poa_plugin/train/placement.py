"""Which part of a tensor this rank holds: all of it, or its rows of one that is sharded (FSDP2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist
from torch import Tensor

from poa_plugin.train.manifest import Shape

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Held(NamedTuple):
    """What this rank holds of a tensor.

    Attributes:
        tensor: the values; without any where the ranks are more than the rows.
        offset: of its first value in the whole tensor.
        shape: of the whole tensor.
        is_everywhere: whether every rank holds all of it.
        is_first: of a part that several ranks hold, whether this is the one that writes it.
    """

    tensor: Tensor
    offset: Shape
    shape: Shape
    is_everywhere: bool = True
    is_first: bool = True


def held(tensor: Tensor) -> Held:
    """Return what this rank holds of a tensor.

    Raises:
        ValueError: a tensor is sharded in another way than along its dimensions.
    """
    sharded = _sharded(tensor)
    if sharded is None:
        return Held(tensor, (0,) * tensor.dim(), tuple(tensor.shape))
    local, shape = sharded.to_local(), tuple(sharded.shape)
    if all(placement.is_replicate() for placement in sharded.placements):
        return Held(local, (0,) * local.dim(), shape)
    offset, local_shape, is_first = _rectangle(sharded)
    if tuple(local.shape) != local_shape:
        raise ValueError(f"{tuple(local.shape)} of a tensor {shape} are {sharded.placements}")
    return Held(local, offset, shape, is_everywhere=False, is_first=is_first)


def sharded_like(local: Tensor, tensor: Tensor) -> Tensor:
    """Return this rank's part as a tensor that is placed as another one is; itself for one that is not sharded.

    Args:
        local: of the shape of `held(tensor).tensor`.
        tensor: a parameter, whole or sharded.
    """
    sharded = _sharded(tensor)
    if sharded is None:
        return local
    return type(sharded).from_local(
        local.to(sharded.to_local().device),
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=sharded.shape,
        stride=sharded.stride(),
    )


def _sharded(tensor: Tensor) -> DTensor | None:
    if not dist.is_initialized():  # importing it takes half a second, which one process need not
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


def _rectangle(tensor: DTensor) -> tuple[Shape, Shape, bool]:
    """Return offset and shape of this rank's part, and whether it is the first rank that holds it.

    Along each dimension of the mesh that shards, ranks get `ceil(rows / ranks)` rows each, the last ones
    fewer or none, as `torch.chunk` has it.
    """
    from torch.distributed.tensor import Shard

    coordinates = tensor.device_mesh.get_coordinate()
    if coordinates is None:
        raise ValueError("this rank is not in the mesh of a sharded tensor")
    offset, shape, is_first = [0] * tensor.dim(), list(tensor.shape), True
    for axis, placement in enumerate(tensor.placements):
        ranks, rank = tensor.device_mesh.size(axis), coordinates[axis]
        if placement.is_replicate():
            is_first = is_first and rank == 0
        elif type(placement) is Shard:
            rows, dim = shape[placement.dim], placement.dim
            each = -(-rows // ranks)
            start = min(rank * each, rows)
            offset[dim] += start
            shape[dim] = min(each, rows - start)
        else:
            raise ValueError(f"a tensor with the placement {placement} has no rows of its own")
    return tuple(offset), tuple(shape), is_first
