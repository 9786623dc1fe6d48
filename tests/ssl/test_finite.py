"""Batches at the edge: one image, the same image again and again, images without any structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.ssl import POA
from poa_plugin.ssl.losses import koleo
from poa_plugin.testing import random_batch
from poa_plugin.train.agreement import agree
from poa_plugin.train.gradients import clip_gradients
from tests.conftest import FAMILIES

WAYS = {  # masks make identical images differ, and so only the second has distances of zero
    "whole": ["train.centering=sinkhorn_knopp"],
    "chunked": ["train.centering=centering", "train.prototype_chunk=5", "ibot.start_epoch=9"],
}
EDGES = ("one image", "identical", "constant", "at the mean")


def edge_batch(config: Config, edge: str) -> dict[str, Tensor]:
    """Return a shard's batch whose crops are at an edge."""
    batch = random_batch(config)
    for key in ("collated_global_crops", "collated_local_crops"):
        crops = batch[key]
        if edge == "identical":
            batch[key] = crops[:1].repeat(len(crops), 1, 1, 1)
        elif edge == "constant":
            batch[key] = torch.full_like(crops, 0.7)
        elif edge == "at the mean":  # zero once normalized: a fresh ResNet's features are zero, too
            batch[key] = torch.zeros_like(crops)
    return batch


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_terms_and_gradients_are_finite(family: str, edge: str, way: str) -> None:
    size = 1 if edge == "one image" else 3
    overrides = [*WAYS[way], f"train.batch_size_per_shard={size}"]
    config = default_config([*FAMILIES[family], *overrides])
    model = POA(config).train()
    terms = model.forward_backward(edge_batch(config, edge), 0.05, [model.space["smallest"]])
    assert ("masked_patch_intact" in terms) == (way == "whole")
    assert agree(terms, model.terms_by_head, {}).non_finite == []
    gradients = {
        name: parameter.grad.abs().max()
        for name, parameter in model.student.named_parameters()
        if parameter.grad is not None
    }
    assert len(gradients) > 30
    norms = clip_gradients(model.student, 3.0)
    assert agree(terms, {}, {**gradients, **norms}).non_finite == []
    if edge != "one image" and way == "chunked":
        assert terms["koleo_intact"] > 1.5  # of distances that are zero, 0.05 * 2 * -log(1e-8 ...)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_koleo_of_features_without_any_distance(value: float, dtype: torch.dtype) -> None:
    features = torch.full((4, 384), value, dtype=dtype, requires_grad=True)
    loss = koleo(features)
    loss.backward()
    assert 10 < loss.item() < 20
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
