"""A shard on tensors without numbers takes what the same shard takes with numbers."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from poa_plugin.backbones.base import CropBatch, ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.evaluate.memory import PeakMemory
from poa_plugin.plan.shapes import ShapeTensor, metered
from poa_plugin.plan.trace import ACTIVATIONS, GRADIENTS, KEPT, shard_batch, trace_shard
from poa_plugin.ssl.memory import kept_features
from poa_plugin.train.parallel import build_model
from tests.conftest import FAMILIES

VARIANTS = [
    ("train.precision=fp32",),
    ("train.precision=bf16", "train.joint_students=true", "train.prototype_chunk=8"),
    ("train.precision=bf16", "train.activation_checkpointing=true"),
]


def with_numbers(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.randint(0, 256, x.shape, dtype=torch.uint8) if type(x) is ShapeTensor else x
        for name, x in batch.items()
    }


@pytest.mark.parametrize("overrides", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_peak_is_that_of_real_tensors(family: str, overrides: tuple[str, ...]) -> None:
    config = default_config([*FAMILIES[family], "train.batch_size_per_shard=6", *overrides])
    trace = trace_shard(config, gpu=False)
    model = build_model(config).train()
    batch = with_numbers(shard_batch(config, model))
    elastic = list(model.space)[-2]
    model.forward_backward([batch], 0.05, [elastic])  # fills caches of tables
    model.zero_grad(set_to_none=True)
    with PeakMemory() as memory:
        model.forward_backward([batch], 0.05, [elastic])
    planned = max(of_pass.peak for of_pass in trace.passes)
    assert planned == pytest.approx(memory.peak, rel=0.02)


def test_what_stays_of_a_pass_is_named(small_config) -> None:  # type: ignore[no-untyped-def]
    trace = trace_shard(small_config(), gpu=False)
    assert [of_pass.name for of_pass in trace.passes] == [
        "teacher",
        "intact student",
        "elastic student",
    ]
    teacher, intact, elastic = (of_pass.parts for of_pass in trace.passes)
    assert teacher[GRADIENTS] == teacher[KEPT] == 0
    assert elastic[GRADIENTS] == pytest.approx(trace.gradient_bytes, rel=0.1)
    assert elastic[KEPT] > kept_features(small_config(), trace.teacher_rows)
    assert intact[ACTIVATIONS] > 0.5 * sum(intact.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_twice_the_multiply_adds_of_a_network(family: str) -> None:
    """Of matrix products and convolutions; `cost` counts norms too, which weigh in networks this narrow."""
    config = default_config(FAMILIES[family])
    backbone = build_backbone(config)
    side = config.crops.global_crops_size
    images = ShapeTensor(torch.empty(2, 3, side, side, device="meta"))
    with torch.no_grad(), metered() as meter:
        backbone(images)
    expected = 2 * 2 * backbone.space.cost(backbone.space.intact, side).flops
    assert meter.flops[""] == pytest.approx(expected, rel=0.1)


def test_an_average_student_is_cheaper_than_the_largest(small_config) -> None:  # type: ignore[no-untyped-def]
    trace = trace_shard(small_config(), gpu=False)
    traced = sum(sum(of_pass.flops.values()) for of_pass in trace.passes)
    assert 0.4 * traced < trace.flops < traced


def test_a_gpu_keeps_less_of_biased_attention() -> None:
    overrides = [*FAMILIES["swin"], "student.swin.window_size=8"]
    config = default_config(overrides)
    again = default_config([*overrides, "train.activation_checkpointing=true"])
    cpu, gpu, recomputed = (
        trace_shard(of_run, on_gpu).passes[1].peak
        for of_run, on_gpu in ((config, False), (config, True), (again, True))
    )
    assert recomputed < gpu < cpu


def test_operations_on_shapes_have_the_results_of_torch(small_config) -> None:  # type: ignore[no-untyped-def]
    config = small_config()
    model = build_model(config)
    backbone = cast(ElasticBackbone, model.student["backbone"])
    images = torch.zeros(3, 3, 48, 48)
    with torch.no_grad(), metered() as meter:
        [real] = backbone([CropBatch(images, model.space.intact)])
        assert meter.bytes == 0  # no tensor of shapes took part
        shapes = ShapeTensor(images.to("meta"))
        [traced] = backbone([CropBatch(shapes, model.space.intact)])
        assert meter.peak > 0
    for name, x in real.items():
        if x is not None:
            assert (traced[name].shape, traced[name].dtype) == (x.shape, x.dtype)
    del traced, shapes
    assert meter.bytes == 0
