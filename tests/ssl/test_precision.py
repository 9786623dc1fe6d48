"""Half precision: whole steps of every family, with no operation that CUDA would refuse."""

from __future__ import annotations

import pytest
import torch

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.ssl import POA
from poa_plugin.testing import random_batch, randomize
from tests.conftest import FAMILIES
from tests.precision import one_type_each, watch_residuals

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
DROP_PATH = {
    "vit": ["student.vit.drop_path_rate=0.4"],
    "swin": ["student.swin.drop_path_rate=0.4"],
    "resnet": [],
}
SMALLER = ["train.batch_size_per_shard=2", "crops.local_crops_number=1"]


def model_of(family: str, *overrides: str) -> POA:
    config: Config = default_config([*FAMILIES[family], *DROP_PATH[family], *SMALLER, *overrides])
    model = POA(config).train()
    if (
        model.fp16_scaler is not None
    ):  # the usual first scale overflows with weights as large as these
        model.fp16_scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    randomize(model.student["backbone"], 1)
    randomize(model.teacher["backbone"], 2)
    return model


def step(model: POA) -> dict[str, torch.Tensor]:
    """Run one step, and return its gradients."""
    subnet = model.space.sample(0, 1, 0)
    terms = model.forward_backward(random_batch(model.config), 0.05, [subnet])
    assert all(term.dtype == torch.float32 for term in terms.values())
    scale = 1.0 if model.fp16_scaler is None else model.fp16_scaler.get_scale()
    return {
        name: parameter.grad / scale
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize(
    ("joint", "policy"), [("true", "cuda"), ("false", "cuda"), ("true", "cpu")]
)
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_mixes_no_types(family: str, precision: str, joint: str, policy: str) -> None:
    """One head is computed whole, the other one in chunks."""
    joint_students = f"train.joint_students={joint}"
    model = model_of(
        family, f"train.precision={precision}", joint_students, "train.prototype_chunk=16"
    )
    blocks = {
        f"{branch}.{i}": block
        for branch in ("student", "teacher")
        for i, block in enumerate(getattr(model, branch)["backbone"].multi_input_blocks())
    }
    seen = watch_residuals(blocks)
    with one_type_each(policy) as watch:
        gradients = step(model)
    assert {name for name, _ in seen} == set(blocks)
    assert {kind for _, kind in seen} == {torch.float32}
    assert {x.dtype for x in gradients.values()} == {torch.float32}
    koleo = 2 * 2  # a product for each student and view, which is not differentiated
    assert watch.products[torch.float32] <= koleo
    assert watch.products[HALF[precision]] > 100


def errors(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    assert actual.keys() == expected.keys()
    return {name: float((actual[name] - x).norm() / x.norm()) for name, x in expected.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_float32_but_for_noise(family: str) -> None:
    """The noise is that of float32 steps with weights rounded to half precision."""
    expected = step(model_of(family))
    for precision, kind in HALF.items():
        rounded = model_of(family)
        with torch.no_grad():
            for parameter in rounded.parameters():
                parameter.copy_(parameter.to(kind))
        noise = errors(step(rounded), expected)
        for chunk in ("null", "16"):
            overrides = [f"train.precision={precision}", f"train.prototype_chunk={chunk}"]
            halved = errors(step(model_of(family, *overrides)), expected)
            assert max(halved[name] - 4 * noise[name] for name in halved) < 0.02
