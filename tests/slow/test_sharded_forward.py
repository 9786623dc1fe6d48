"""Two ranks, two different elastic students, blocks sharded by FSDP2: gradients are the averaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from poa_plugin.backbones import CropBatch
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.train.agreement import agree
from tests.conftest import SMALL, randomize

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SUBNETS = (Subnet(24, 2), Subnet(40, 3))


def loss_of(backbone: nn.Module, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    large = torch.randn(3, 3, 48, 48, generator=generator)
    small = torch.randn(4, 3, 32, 32, generator=generator)
    masks = torch.rand(3, 36, generator=generator) < 0.4
    crop_batches = [
        CropBatch(crops, subnet, mask)
        for subnet in (Subnet(48, 4), SUBNETS[rank])
        for crops, mask in ((large, masks), (small, None))
    ]
    features = backbone(crop_batches)
    return sum(
        out["x_norm_clstoken"].pow(2).mean() + out["x_norm_patchtokens"].pow(3).mean()
        for out in features
    )


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    plain = randomize(build_backbone(default_config(SMALL)))
    sharded = randomize(build_backbone(default_config(SMALL)))
    mesh = init_device_mesh("cpu", (2,))
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in (plain, sharded)]
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(plain, rank).backward()
        for parameter in plain.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        loss_of(sharded, rank).backward()
        for optimizer in optimizers:
            optimizer.step()
    pairs = zip(plain.parameters(), sharded.parameters(), strict=True)
    worst = max(float((a - b.full_tensor()).detach().abs().max()) for a, b in pairs)
    loss = torch.tensor(float("nan") if rank else 1.0)
    Path(folder, f"non_finite{rank}").write_text(
        str(agree({"a": loss, "b": loss * 0}, {}, {}).non_finite)
    )
    if rank == 0:
        Path(folder, "worst").write_text(str(worst))
    dist.barrier()
    dist.destroy_process_group()


def test_ranks_with_different_students_stay_in_step(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    assert float((tmp_path / "worst").read_text()) < 1e-6
    for rank in range(2):  # a loss that is not finite on rank 1 is skipped on both
        assert (tmp_path / f"non_finite{rank}").read_text() == "['a on rank 1', 'b on rank 1']"
