"""Laws of training: students together or one after the other, layer-wise decay, and what `poa plan` counts."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from poa_plugin.backbones.base import CropBatch
from poa_plugin.config.schema import Config
from poa_plugin.elastic.layers import MultiInputBlock
from poa_plugin.plan.trace import trace_shard
from poa_plugin.ssl import POA
from poa_plugin.testing.networks import (
    assert_close,
    random_backbone,
    random_batch,
    random_images,
    randomize,
)


class Step(NamedTuple):
    """What a step gives: loss terms, gradients, and which blocks were called."""

    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    calls: list[str]


def students_together_are_one_after_the_other(config: Config) -> None:
    """Assert that a step has the same losses and gradients whether both students share a pass or not.

    Stochastic depth is off: images that it leaves out of all blocks have the same class token, at which
    KoLeo has no gradient.
    """
    together, alone = _step(config, True), _step(config, False)
    n_blocks = len(set(together.calls))
    assert len(together.calls) == n_blocks, "a block was called twice in a pass"
    assert len(alone.calls) == 2 * n_blocks, "a student skipped a call of a block"
    assert together.terms.keys() == alone.terms.keys()
    for name, value in together.terms.items():
        torch.testing.assert_close(value, alone.terms[name], atol=1e-5, rtol=1e-5, msg=name)
    assert together.gradients.keys() == alone.gradients.keys()
    for name, grad in together.gradients.items():
        scale = 1 + float(grad.abs().max())
        expected = alone.gradients[name]
        torch.testing.assert_close(grad, expected, atol=2e-5 * scale, rtol=0, msg=name)


def stochastic_depth_follows_the_generator(config: Config) -> None:
    """Assert that what is drawn depends on a crop batch's generator alone: a resumed run draws the same."""
    backbone = random_backbone(config).train()
    images, space = random_images(config, 6), backbone.space

    def features(seed: int, others: int) -> Tensor:
        torch.rand(others)
        crop_batches = [CropBatch(images, space["smallest"])] * others
        crop_batches.append(
            CropBatch(images, space.intact, None, torch.Generator().manual_seed(seed))
        )
        return cast(Tensor, backbone(crop_batches)[-1]["x_norm_clstoken"])

    with torch.no_grad():
        expected = features(1, 0)
        assert torch.equal(features(1, 0), expected)
        assert_close(features(1, 2), expected)
        backbone.eval()
        assert torch.equal(features(1, 0), features(2, 0)), "evaluation mode is not deterministic"


def layer_ids_rise_along_the_path(config: Config) -> None:
    """Assert that `layer_id` is 0 in the stem, rises from 1 block by block, and ends at `num_layers`."""
    backbone = random_backbone(config)
    path = backbone.member_path(backbone.space.intact)
    ids = [backbone.layer_id(f"{name}.x.weight") for name in path]
    assert ids == sorted(ids), ids
    assert min(ids) == 1, ids
    assert backbone.layer_id("mask_token") == 0
    known = {backbone.layer_id(name) for name, _ in backbone.named_parameters()}
    assert known <= set(range(backbone.num_layers + 1)), known
    assert max(known) == backbone.num_layers, known


def a_plan_counts_what_is_trained(config: Config) -> None:
    """Assert that `poa plan` runs a step without numbers, and counts the parameters that a training has."""
    trace = trace_shard(config, gpu=False)
    model = POA(config)
    assert trace.parameters == sum(p.numel() for p in model.student.parameters())
    for of_pass in trace.passes:
        assert of_pass.peak > 0, of_pass.name
        assert sum(of_pass.flops.values()) > 0, of_pass.name


def _step(config: Config, joint: bool) -> Step:
    overrides = {"joint_students": joint, "batch_size_per_shard": 3}
    config = cast(Config, OmegaConf.merge(cast(DictConfig, config), {"train": overrides}))
    model = POA(config).train()
    backbone = model.student["backbone"].eval()
    randomize(backbone, 1)
    randomize(model.teacher["backbone"], 2)
    calls: list[str] = []
    blocks = [n for n, module in backbone.named_modules() if isinstance(module, MultiInputBlock)]
    for name in blocks:
        block = backbone.get_submodule(name)
        block.register_forward_hook(lambda *_, name=name: calls.append(name))
    terms = model.forward_backward([random_batch(config)], 0.05, [model.space["smallest"]])
    gradients = {n: p.grad for n, p in model.student.named_parameters() if p.grad is not None}
    return Step(terms, gradients, calls)


LAWS = (
    students_together_are_one_after_the_other,
    stochastic_depth_follows_the_generator,
    layer_ids_rise_along_the_path,
    a_plan_counts_what_is_trained,
)
