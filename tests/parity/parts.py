"""Heads, targets, losses and schedules, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from poa_plugin.config.load import default_config
from poa_plugin.registry import BACKBONES
from poa_plugin.ssl import losses
from poa_plugin.ssl.centering import Centering
from poa_plugin.ssl.cross_entropy import SoftTargets, soft_cross_entropies
from poa_plugin.ssl.heads import MultiHead
from poa_plugin.ssl.prototypes import chunks
from poa_plugin.train.schedules import Schedules
from tests.ssl.outputs import balanced, with_logits

from .golden import Case, Golden, compare, worst
from .published import head_key, rename

LOSS_TOLERANCE = 5e-6
OUTPUT_TOLERANCE = 1e-5
STUDENT_TEMP = 0.1
CENTER_MOMENTUM = 0.9


def part_cases(golden: Golden, chunk: int) -> Iterator[Case]:
    """Yield the cases that belong to no family, losses in chunks of prototypes."""
    meta = golden.meta("head_loss")
    if meta is None:
        yield Case("heads, losses, schedules", absent=True, remark="no head_loss_meta.json")
        return
    for name, cases in (
        ("heads", head_cases),
        ("losses", partial(loss_cases, chunk=chunk)),
        ("schedules", None),
    ):
        if name not in meta:
            yield Case(name, absent=True, remark="not in this folder")
        elif cases is not None:
            yield from cases(golden, meta[name])
    for recipe, schedule in meta.get("schedules", {}).items():
        yield schedule_case(recipe, schedule)


def head_cases(golden: Golden, meta: dict[str, Any]) -> Iterator[Case]:
    arrays = golden.arrays(meta["files"])
    for case in meta["cases"]:
        stem = f"nl{case['nlayers']}"
        heads = MultiHead(
            case["max_in_dim"],
            case["out_dims"],
            case["hidden_dim"],
            case["bottleneck_dim"],
            case["nlayers"],
        )
        heads.load_state_dict(rename(arrays, f"{stem}/state/", head_key), strict=True)
        for width in case["widths"]:
            x = arrays.get(f"{stem}/w{width}/x")
            name = f"heads {stem}/w{width}"
            if x is None:
                yield Case(name, absent=True)
                continue
            [found] = heads([x])
            yield worst(
                name,
                [
                    compare(f"y{h}", y, arrays.get(f"{stem}/w{width}/y{h}"), OUTPUT_TOLERANCE)
                    for h, y in enumerate(found)
                ],
            )


def loss_cases(golden: Golden, meta: dict[str, Any], chunk: int) -> Iterator[Case]:
    arrays = golden.arrays(meta["files"])
    for size in meta["ks"]:
        for temp in meta["temps"]:
            stem = f"K{size}_T{temp}"
            own = {
                key.removeprefix(f"{stem}/"): value
                for key, value in arrays.items()
                if key.startswith(f"{stem}/")
            }
            yield from _target_cases(stem, own, temp, chunk)
            yield from _dino_cases(stem, own, chunk)
            yield from _ibot_cases(stem, own, chunk)
    yield from _centering_cases(arrays, meta["centering_temp"], chunk)
    yield from _koleo_cases(arrays)


def _target_cases(stem: str, own: dict[str, Tensor], temp: float, chunk: int) -> Iterator[Case]:
    for key, source, iterations in (
        ("dino_sk", "dino_teacher", 3),
        ("dino_sk_iter1", "dino_teacher", 1),
        ("dino_sk_iter10", "dino_teacher", 10),
        ("ibot_sk", "ibot_teacher", 3),
    ):
        name = f"losses {stem}/{key}"
        if source not in own:
            yield Case(name, absent=True)
            continue
        found = balanced(own[source], temp, iterations, chunk)
        yield compare(name, found, own.get(key), LOSS_TOLERANCE)


def _dino_cases(stem: str, own: dict[str, Tensor], chunk: int) -> Iterator[Case]:
    """The golden number is a sum over (student view, teacher view) pairs, ours a mean over pairs.

    They are compared as means: one unit in the last place of a float32 sum of 68 is 7.6e-6.
    """
    if not {"dino_student", "dino_sk"} <= own.keys():
        yield Case(f"losses {stem}/dino_loss", absent=True)
        return
    student = own["dino_student"].clone().requires_grad_()
    n_local = len(student) // (len(own["dino_sk"]) // 2)
    unused = torch.zeros_like(own["dino_sk"])
    if chunk >= student.shape[1]:
        log_probs = losses.log_probabilities(student, STUDENT_TEMP)
        _, local = losses.cross_view(own["dino_sk"], unused, log_probs)
    else:
        rows = _cross_entropies(student, sum(own["dino_sk"].chunk(2)), chunk)
        _, local = losses.cross_view_means(unused[:, 0], rows, n_local)
    n_pairs = 2 * n_local
    loss = local * (n_pairs + 2)
    loss.backward()
    wanted = own["dino_loss"] / n_pairs if "dino_loss" in own else None
    yield compare(f"losses {stem}/dino_loss", loss / n_pairs, wanted, LOSS_TOLERANCE)
    wanted = own.get("dino_loss_grad")
    yield compare(f"losses {stem}/dino_loss_grad", student.grad, wanted, LOSS_TOLERANCE)
    found = torch.softmax(own["dino_student"] / STUDENT_TEMP, -1)
    yield compare(f"losses {stem}/vanilla", found, own.get("vanilla"), LOSS_TOLERANCE)


def _ibot_cases(stem: str, own: dict[str, Tensor], chunk: int) -> Iterator[Case]:
    if not {"ibot_student", "ibot_sk", "ibot_masks", "ibot_weights"} <= own.keys():
        yield Case(f"losses {stem}/ibot_loss", absent=True)
        return
    student = own["ibot_student"].clone().requires_grad_()
    weights, n_images = own["ibot_weights"], len(own["ibot_masks"])
    if chunk >= student.shape[1]:
        log_probs = losses.log_probabilities(student, STUDENT_TEMP)
        loss = losses.masked_patch(own["ibot_sk"], log_probs, weights, n_images)
    else:
        rows = _cross_entropies(student, own["ibot_sk"], chunk)
        loss = losses.masked_patch_mean(rows, weights, n_images)
    loss.backward()
    yield compare(f"losses {stem}/ibot_loss", loss, own.get("ibot_loss"), LOSS_TOLERANCE)
    wanted = own.get("ibot_loss_grad")
    yield compare(f"losses {stem}/ibot_loss_grad", student.grad, wanted, LOSS_TOLERANCE)


def _cross_entropies(logits: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Return the cross-entropies of (N, K) logits, which have to be differentiable, in chunks."""
    size = logits.shape[1]
    soft_targets = [SoftTargets(slice(None), lambda of: targets[:, of])]
    [rows], _ = soft_cross_entropies(
        logits, torch.eye(size), soft_targets, STUDENT_TEMP, chunks(size, chunk)
    )
    return rows


def _centering_cases(arrays: dict[str, Tensor], temp: float, chunk: int) -> Iterator[Case]:
    for kind in ("dino", "ibot"):
        sizes = []
        while f"center/r0/{kind}_in{len(sizes)}" in arrays:
            sizes.append(arrays[f"center/r0/{kind}_in{len(sizes)}"].shape[-1])
        if not sizes:
            yield Case(f"losses center/{kind}", absent=True)
            continue
        centering, step = Centering(sizes, CENTER_MOMENTUM), 0
        while f"center/r{step}/{kind}_in0" in arrays:
            inputs = [arrays[f"center/r{step}/{kind}_in{h}"] for h in range(len(sizes))]
            found = centering([with_logits([x.flatten(0, -2)], temp, chunk) for x in inputs])
            for h, x in enumerate(assignments.all_of(0) for assignments in found):
                wanted = arrays.get(f"center/r{step}/{kind}_out{h}")
                name = f"losses center/r{step}/{kind}_out{h}"
                yield compare(name, x.view_as(inputs[h]), wanted, LOSS_TOLERANCE)
            step += 1
        for h in range(len(sizes)):
            centering.apply_pending(h)
            center, wanted = centering.get_buffer(f"center_{h}"), None
            if f"center/final_{kind}{h}" in arrays:
                wanted = arrays[f"center/final_{kind}{h}"].view_as(center)
            yield compare(f"losses center/final_{kind}{h}", center, wanted, LOSS_TOLERANCE)


def _koleo_cases(arrays: dict[str, Tensor]) -> Iterator[Case]:
    if "koleo/x" not in arrays:
        yield Case("losses koleo", absent=True)
        return
    x = arrays["koleo/x"].clone().requires_grad_()
    loss = losses.koleo(x)
    loss.backward()
    yield compare("losses koleo/loss", loss, arrays.get("koleo/loss"), LOSS_TOLERANCE)
    yield compare("losses koleo/grad", x.grad, arrays.get("koleo/grad"), LOSS_TOLERANCE)


def schedule_case(recipe: str, golden: dict[str, Any]) -> Case:
    """Compare all four schedules at every golden iteration."""
    words = [
        f"student.arch={BACKBONES.names()[0]}",
        f"optim.epochs={golden['epochs']}",
        f"optim.warmup_epochs={golden['warmup_epochs']}",
        f"optim.iter_num_scale={golden['iter_num_scale']}",
        f"train.OFFICIAL_EPOCH_LENGTH={golden['epoch_length']}",
        "train.shards=1",
        f"train.batch_size_per_shard={golden['global_batch']}",
    ]
    schedules = Schedules(default_config(words))
    ours = {
        "lr": schedules.lr,
        "wd": schedules.weight_decay,
        "momentum": schedules.momentum,
        "teacher_temp": schedules.teacher_temp,
    }
    cases = []
    for name, schedule in ours.items():
        found = torch.tensor([schedule(i) for i in golden["iterations"]], dtype=torch.float64)
        wanted = torch.tensor(golden[name], dtype=torch.float64) if name in golden else None
        cases.append(compare(name, found, wanted, 1e-12))
    return worst(f"schedules {recipe}", cases)
