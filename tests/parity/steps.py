"""Whole training steps: every logged term, the optimized loss, gradients, and what the step leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.ssl import POA
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.train.gradients import clip_gradients
from poa_plugin.train.optim import apply_schedule, build_optimizer
from poa_plugin.train.schedules import Values

from .golden import Case, Golden, compare, guarded, worst
from .published import backbone_words, network, rename, student_key

LOSS_TOLERANCE = 5e-6
GRADIENT_TOLERANCE = 1e-5
AFTER_TOLERANCE = 5e-6
GRADIENT_NOISE = 1e-4


def step_cases(golden: Golden, family: str, chunk: int) -> Iterator[Case]:
    """Yield the cases of one family's whole steps, in chunks of prototypes."""
    meta = golden.meta("head_loss") or {}
    steps = [case for case in meta.get("total", []) if case["family"] == family]
    if not steps:
        yield Case(f"{family} steps", absent=True, remark="none in this folder")
    for case in steps:
        yield from guarded(f"step {case['name']}", _one_step(golden, case, chunk))


def _one_step(golden: Golden, case: dict[str, Any], chunk: int) -> Iterator[Case]:
    name = f"step {case['name']}"
    init = golden.arrays(case["files"]["init"])
    data = golden.arrays(case["files"]["data"])
    if not init or not data:
        yield Case(name, absent=True, remark="initial weights or data are not in this folder")
        return
    config = step_config(case, chunk)
    key_of = student_key(case["family"])
    model = POA(config)
    model.student.load_state_dict(rename(init, "student/", key_of), strict=True)
    model.teacher.load_state_dict(rename(init, "teacher/", key_of), strict=True)
    model.train()
    subnet = network(*case["network"])
    pool = sum(model.space.multiplicities)
    yield Case(f"{name} length of the list", abs(pool - case["network_pool"]), 0)
    batch = rename(data, "data/", str)
    for round_, results in enumerate(case["results"]):
        model.zero_grad()
        parts = model.loss_terms(batch, case["step"]["teacher_temp"], [subnet])
        sum(part.sum() for part in parts.values()).backward()
        logged = logged_terms(parts, config)
        yield from (
            compare(
                f"{name} round {round_} {key}", logged.get(key, torch.nan), value, LOSS_TOLERANCE
            )
            for key, value in results.items()
        )
    gradients = {
        key: parameter.grad.clone() if parameter.grad is not None else None
        for key, parameter in model.student.named_parameters()
    }
    yield from _gradient_cases(name, gradients, data, case)
    yield _group_case(name, model, case)
    yield from _after_cases(name, model, gradients, data, case)


def step_config(case: dict[str, Any], chunk: int) -> Config:
    """Return our configuration of a published one."""
    overrides, family = case["overrides"], case["family"]
    words = [f"student.arch={family}", *backbone_words(family, overrides["student"])]
    if overrides.get("ibot", {}).get("separate_head"):
        raise UserError("separate heads for masked patches are not supported")
    for section in ("dino", "ibot", "crops"):
        for key, value in overrides.get(section, {}).items():
            if not (section == "ibot" and ("head" in key)):
                words.append(f"{section}.{key}={value}")
    start = 0 if case["activate_ibot"] else 1
    words += [
        f"ibot.start_epoch={start}",
        f"dino.lambda_ie={case['lambda_ie']}",
        f"dino.koleo_loss_weight={case['koleo_loss_weight']}",
        f"train.centering={case['centering']}",
        f"optim.clip_grad={case['clip_grad']}",
        f"optim.layerwise_decay={case['layerwise_decay']}",
        f"optim.patch_embed_lr_mult={case['patch_embed_lr_mult']}",
        f"optim.adamw_beta1={case['adamw_betas'][0]}",
        f"optim.adamw_beta2={case['adamw_betas'][1]}",
        "train.shards=1",
        f"train.prototype_chunk={chunk}",
    ]
    return default_config(words)


def logged_terms(parts: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Return the published log's entries, which are not the summands of the loss."""
    n_heads = len(config.dino.head_n_prototypes)
    parts = {name: part.detach() for name, part in parts.items()}

    def by_head(*names: str) -> Tensor:
        found = [parts[name] for name in names if name in parts]
        return n_heads * sum(found, torch.zeros(n_heads))

    dino, ibot = config.dino, config.ibot
    logged = {"TOTAL": torch.stack([part.sum() for part in parts.values()]).sum()}
    for kind in ("global", "local"):
        cross = by_head(f"cross_view_intact_{kind}", f"cross_view_elastic_{kind}")
        cross = cross / dino.loss_weight
        same = by_head(f"same_view_{kind}") / (1 - dino.lambda_ie)
        for h in range(n_heads):
            logged[f"dino_{kind}_crops_loss_{h}"] = cross[h]
            logged[f"distill_{kind}_crops_loss_{h}"] = same[h]
    patch = by_head("masked_patch_intact", "masked_patch_elastic") / (2 * ibot.loss_weight)
    logged |= {f"ibot_loss_{h}": patch[h] for h in range(n_heads)}
    logged["koleo_loss"] = (parts["koleo_intact"] + parts["koleo_elastic"]) / 2
    return logged


def _gradient_cases(
    name: str, gradients: dict[str, Tensor | None], data: dict[str, Tensor], case: dict[str, Any]
) -> Iterator[Case]:
    key_of = student_key(case["family"])
    wanted = rename(data, "grad/", key_of)
    compared = [
        compare(key, _zero_if_none(gradients[key], value), value, GRADIENT_TOLERANCE)
        for key, value in wanted.items()
    ]
    yield worst(f"{name} gradients", compared)
    norms = {key_of(key): norm for key, norm in case.get("grad_norms", {}).items()}
    compared = [_norm_case(key, gradients.get(key), norm) for key, norm in norms.items()]
    missing = sorted(gradients.keys() ^ norms.keys()) if norms else []
    yield worst(f"{name} gradient norms", compared)
    yield Case(f"{name} names of parameters", float(len(missing)), 0, " ".join(missing[:3]))


def _norm_case(key: str, gradient: Tensor | None, wanted: float | None) -> Case:
    if gradient is None or wanted is None:
        return Case(key, float((gradient is None) != (wanted is None)), GRADIENT_TOLERANCE)
    return compare(key, gradient.norm(), wanted, GRADIENT_TOLERANCE)


def _group_case(name: str, model: POA, case: dict[str, Any]) -> Case:
    """Compare learning-rate and weight-decay factors of all parameters."""
    if "param_groups" not in case:
        return Case(f"{name} parameter groups", absent=True)
    optim = model.config.optim
    ours = parameter_settings(model.student, optim.layerwise_decay, optim.patch_embed_lr_mult)
    key_of = student_key(case["family"])
    theirs = {
        key_of(key): (group["lr_multiplier"], group["wd_multiplier"], group["is_last_layer"])
        for key, group in case["param_groups"].items()
    }
    if ours.keys() != theirs.keys():
        different = sorted(ours.keys() ^ theirs.keys())
        return Case(f"{name} parameter groups", float("inf"), 0, " ".join(different[:3]))
    error = max(
        abs(float(a) - float(b))
        for key in ours
        for a, b in zip(ours[key], theirs[key], strict=True)
    )
    return Case(f"{name} parameter groups", error, 1e-12, f"({len(ours)} parameters)")


def _after_cases(
    name: str,
    model: POA,
    gradients: dict[str, Tensor | None],
    data: dict[str, Tensor],
    case: dict[str, Any],
) -> Iterator[Case]:
    """Clip, take an AdamW step, update the teacher, and compare where gradients are above noise."""
    step = case["step"]
    optimizer = build_optimizer(model.get_params_groups(), model.config)
    norms = clip_gradients(model.student, case["clip_grad"])
    wanted = case.get("grad_norm_before_clip", {})
    yield worst(
        f"{name} norms before clipping",
        [compare(key, norms[key], value, GRADIENT_TOLERANCE) for key, value in wanted.items()],
    )
    values = Values(
        step["lr"], step["last_layer_lr"], step["wd"], step["momentum"], step["teacher_temp"]
    )
    apply_schedule(optimizer, values)
    optimizer.step()
    model.update_teacher(step["momentum"])
    for branch in ("student", "teacher"):
        found = getattr(model, branch).state_dict()
        compared = []
        for key, value in rename(data, f"after/{branch}/", student_key(case["family"])).items():
            gradient = gradients[key]
            clear = torch.ones_like(value, dtype=torch.bool)
            if gradient is not None:
                clear = (gradient.abs() > GRADIENT_NOISE) | (gradient == 0)
            compared.append(compare(key, found[key][clear], value[clear], AFTER_TOLERANCE))
        yield worst(f"{name} {branch} after the step", compared)


def _zero_if_none(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
