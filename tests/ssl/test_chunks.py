"""Targets and losses in chunks of prototypes and shard by shard, against whole ones of one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.ssl import POA
from poa_plugin.ssl.assignments import TeacherOutputs
from poa_plugin.ssl.centering import Centering, sinkhorn_knopp
from poa_plugin.ssl.cross_entropy import SoftTargets, soft_cross_entropies
from poa_plugin.ssl.prototypes import chunk_width, chunks, student_rows
from poa_plugin.testing import random_batch, randomize
from tests.conftest import FAMILIES
from tests.ssl import one_graph
from tests.ssl.outputs import ONE_CHUNK

Make = Callable[..., Config]
TEMP = 0.05


def units(rows: int, dtype: torch.dtype, seed: int, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(
        torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1
    ).to(dtype)


def outputs(sizes: Sequence[int], width: int, dtype: torch.dtype = torch.float64) -> TeacherOutputs:
    """Outputs of shards of so many tokens; the tokens do not depend on how they are divided."""
    tokens, prototypes = units(sum(sizes), dtype, 0), units(90, dtype, 1)
    return TeacherOutputs(
        tokens.split(list(sizes)), prototypes, TEMP, chunks(90, width), max(sizes)
    )


def whole_sinkhorn(output: TeacherOutputs) -> Tensor:
    log_q = torch.cat(list(output.features)) @ output.prototypes.T / output.temperature
    for _ in range(3):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()


@pytest.mark.parametrize("width", [ONE_CHUNK, 90, 32, 7])
@pytest.mark.parametrize("sizes", [[40], [20, 20], [13, 0, 27], [0, 40]])
def test_sinkhorn_knopp_over_shards_and_chunks(sizes: list[int], width: int) -> None:
    """A shard without any token takes no part."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        output = outputs(sizes, width, dtype)
        [assignments] = sinkhorn_knopp([output])
        ours = torch.cat([assignments.all_of(shard) for shard in range(len(sizes))])
        torch.testing.assert_close(ours, whole_sinkhorn(output), atol=tolerance, rtol=0)
        torch.testing.assert_close(ours.sum(1), torch.ones_like(ours[:, 0]))


def test_targets_in_half_precision_sum_to_one() -> None:
    """Duals and targets come from logits of the same precision."""
    [assignments] = sinkhorn_knopp([outputs([20, 20], 32, torch.bfloat16)])
    sums = assignments.all_of(1).sum(1)
    torch.testing.assert_close(sums, torch.ones(20), atol=1e-5, rtol=0)


def test_a_kind_without_tokens_is_skipped() -> None:
    empty, full = outputs([0, 0], 32), outputs([4, 5], 32)
    without, with_tokens = sinkhorn_knopp([empty, full])
    assert without.all_of(0).shape == (0, 90)
    torch.testing.assert_close(with_tokens.all_of(1), whole_sinkhorn(full)[4:])


@pytest.mark.parametrize("width", [ONE_CHUNK, 32])
def test_the_mean_of_logits_is_the_mean_feature_times_the_prototypes(width: int) -> None:
    centering, output = Centering([90]).double(), outputs([13, 0, 27], width)
    centering([output])
    logits = torch.cat(list(output.features)) @ output.prototypes.T
    torch.testing.assert_close(centering.pending_0[0], logits.mean(0), atol=1e-12, rtol=0)


def soft_targets(k: int, dtype: torch.dtype) -> tuple[list[SoftTargets], list[Tensor]]:
    """A target of the first rows, one that repeats along the next, none, and one of the first rows again."""
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(10, k, generator=generator, dtype=torch.float64)
    q = torch.softmax(logits, 1).to(dtype)
    of_rows = [(slice(4), q[:4]), (slice(4, 13), 2 * q[4:7]), (slice(13, 13), q[:0])]
    of_rows.append((slice(0, 7), q[3:]))
    targets = [SoftTargets(rows, lambda of, p=p: p[:, of]) for rows, p in of_rows]
    repeated = [p.repeat(3, 1) if rows.start == 4 else p for rows, p in of_rows]
    return targets, repeated


@pytest.mark.parametrize("width", [ONE_CHUNK, 90, 32, 7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_cross_entropies_in_chunks(dtype: torch.dtype, tolerance: float, width: int) -> None:
    """Values and gradients, relative to the largest of each."""
    targets, wanted_targets = soft_targets(90, dtype)
    weights = [torch.rand(len(range(13)[target.rows]), dtype=dtype) for target in targets]
    outcomes = []
    for in_chunks in (True, False):
        x, w = units(13, dtype, 5).requires_grad_(), units(90, dtype, 6).requires_grad_()
        if in_chunks:
            values, _ = soft_cross_entropies(x, w, targets, 0.1, chunks(90, width))
        else:
            log_probs = F.log_softmax(x @ w.T / 0.1, dim=1)
            values = [
                -(q * log_probs[target.rows]).sum(1)
                for target, q in zip(targets, wanted_targets, strict=True)
            ]
        loss = sum((v * weight).sum() for v, weight in zip(values, weights, strict=True))
        outcomes.append([*values, *torch.autograd.grad(loss, (x, w))])
    for ours, expected in zip(*outcomes, strict=True):
        scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(ours, expected, atol=tolerance * scale, rtol=0)


def test_cross_entropies_in_half_precision() -> None:
    """The gradients of float32 parameters are float32, and off by no more than bf16's rounding of factors."""
    targets, _ = soft_targets(90, torch.float32)
    gradients = []
    for enabled in (False, True):
        x, w = units(13, torch.float32, 5), units(90, torch.float32, 6)
        if not enabled:  # the noise that rounding the factors alone makes is no fault of chunks
            x, w = x.bfloat16().float(), w.bfloat16().float()
        x.requires_grad_()
        w.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values, _ = soft_cross_entropies(x, w, targets, 0.1, chunks(90, 32))
        assert all(value.dtype == torch.float32 for value in values)
        gradients.append(torch.autograd.grad(sum(v.sum() for v in values), (x, w)))
    for ours, expected in zip(*reversed(gradients), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - expected).norm() / expected.norm()) < 0.01


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers of any tensor that an operation returns."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.most = max(self.most, out.numel())
        return out


def test_no_tensor_of_all_prototypes_by_tokens(small_config: Make) -> None:
    """Twenty times the prototypes: tensors of a step are no larger than the prototypes themselves."""
    overrides = ["dino.head_n_prototypes=[4096]", "train.prototype_chunk=64"]
    config = small_config(*overrides)
    model, batch = POA(config).train(), random_batch(config)
    rows = student_rows(config, model.mask_grid)
    with LargestTensor() as watch:
        model.forward_backward(batch, TEMP)
    assert rows * 64 < watch.most <= 4096 * config.dino.head_bottleneck_dim < rows * 4096


def test_the_width_of_a_chunk_follows_from_the_configuration(small_config: Make) -> None:
    grid = (6, 6)
    published = default_config(["student.arch=vit"])
    assert student_rows(published, (14, 14)) == 100 + 400 + 50 * 98
    assert chunk_width(published, (14, 14)) == (1 << 23) // 5400 // 256 * 256 == 1536
    assert chunk_width(small_config(), grid) > 24
    assert chunk_width(small_config("train.batch_size_per_shard=60000"), grid) == 256
    assert chunk_width(small_config("train.prototype_chunk=3"), grid) == 3
    no_masks = small_config("ibot.loss_weight=0")
    assert student_rows(no_masks, grid) == 6 + 6


def step(
    config: Config, masks: str, dtype: torch.dtype, reference: bool = False
) -> dict[str, Tensor]:
    """Return the terms of a step of two shards, and all gradients."""
    model = POA(config).to(dtype).train()
    randomize(model.student["backbone"], 1)
    randomize(model.teacher["backbone"], 2)
    batches = [random_batch(config, seed) for seed in (1, 2)]
    for number, batch in enumerate(batches):
        if masks == "empty" or (number == 1 and masks == "empty in one shard"):
            batch["collated_masks"] = torch.zeros_like(batch["collated_masks"])
        for kind in ("collated_global_crops", "collated_local_crops"):
            batch[kind] = batch[kind].to(dtype)
    subnets = [model.space.sample(0, 1, shard) for shard in range(len(batches))]
    if reference:
        terms = one_graph.loss_terms(model, batches, TEMP, subnets)
        sum(terms.values()).backward()
        terms = {name: term.detach() for name, term in terms.items()}
    else:
        terms = model.forward_backward(batches, TEMP, subnets)
    return terms | {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def small(family: str, *overrides: str) -> Config:
    smaller = ["train.batch_size_per_shard=2", "crops.local_crops_number=1"]
    return default_config([*FAMILIES[family], *smaller, *overrides])


def error(ours: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return float((ours - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)


WAYS = [
    ["train.prototype_chunk=null", "train.joint_students=true"],
    ["train.prototype_chunk=5", "train.joint_students=false"],
]
"""Whole, both students together, and in chunks, one after the other."""


CASES = [
    ("empty in one shard", "sinkhorn_knopp"),
    ("on", "sinkhorn_knopp"),
    ("empty in one shard", "centering"),
    ("empty", "sinkhorn_knopp"),
]


OF_EACH_FAMILY = [
    pytest.param(family, *case, marks=[pytest.mark.slow] if number and family != "vit" else [])
    for family in FAMILIES
    for number, case in enumerate(CASES)
]
"""All but the first case are of the losses, which know no family: the fast suite has them once."""


@pytest.mark.parametrize(("family", "masks", "centering"), OF_EACH_FAMILY)
def test_shards_one_by_one_are_all_in_one_graph(family: str, masks: str, centering: str) -> None:
    """In float64, but for positions that are interpolated and patches that are weighted in float32."""
    centered = f"train.centering={centering}"
    expected = step(small(family, centered), masks, torch.float64, reference=True)
    for way in WAYS:
        ours = step(small(family, centered, *way), masks, torch.float64)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            assert error(ours[name], value) <= 2e-8, (name, way)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_one_by_one_in_float32(family: str) -> None:
    """1e-6 of a gradient's largest entry, and what one graph in float32 is itself away from float64."""
    truth = step(small(family), "on", torch.float64, reference=True)
    graph = step(small(family), "on", torch.float32, reference=True)
    for way in WAYS:
        ours = step(small(family, *way), "on", torch.float32)
        for name, value in graph.items():
            noise = error(value, truth[name])
            assert error(ours[name], value) <= 1e-6 + noise, (name, way)
            assert error(ours[name], truth[name]) <= 1e-6 + 2 * noise, (name, way)
