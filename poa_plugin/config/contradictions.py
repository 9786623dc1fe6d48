"""Checks of keys against one another: what cannot be, and what is odd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from poa_plugin.config.fields import show
from poa_plugin.config.schema import Config


def contradictions(config: Config) -> list[str]:
    """Return a sentence for all keys that cannot be as they are at the same time.

    What depends on a backbone is checked when it is built (`ssl.check`).
    """
    evaluation, messages = config.evaluation, _nothing_to_optimize(config)
    if evaluation.crop_size > evaluation.resize_size:
        messages.append(
            f"The key 'evaluation.crop_size' is {evaluation.crop_size}: it must not exceed "
            f"'evaluation.resize_size', which is {evaluation.resize_size}."
        )
    terms, weights = config.loss.extra_terms, config.loss.extra_weights
    if len(terms) != len(weights):
        messages.append(
            f"The key 'loss.extra_terms' has {len(terms)} terms, and 'loss.extra_weights' {len(weights)} "
            f"weights: give one for each."
        )
    return messages


def oddities(config: Config) -> list[str]:
    """Return a sentence for what is legitimate, in a short trial of a long recipe say, and odd otherwise."""
    optim, teacher, ibot, lambda_ie = (
        config.optim,
        config.teacher,
        config.ibot,
        config.dino.lambda_ie,
    )
    terms = list(term_weights(config))
    masked = any(term.startswith("masked_patch") for term in terms) and ibot.loss_weight > 0
    lengths = [
        (
            "optim.warmup_epochs",
            optim.warmup_epochs - 1,
            "the learning rate does not reach its peak",
        ),
        (
            "teacher.warmup_teacher_temp_epochs",
            teacher.warmup_teacher_temp_epochs - 1,
            "the teacher's temperature does not reach 'teacher.teacher_temp'",
        ),
        (
            "optim.freeze_last_layer_epochs",
            optim.freeze_last_layer_epochs,
            "the prototypes are never trained",
        ),
        ("ibot.start_epoch", ibot.start_epoch if masked else 0, "no crop is ever masked"),
    ]
    crops = 2 * config.train.batch_size_per_shard
    messages = [
        f"The key '{key}' is {value}, and the training has {optim.epochs} epochs: {then}."
        for key, value, then in lengths
        if value >= optim.epochs
    ]
    if masked and int(crops * ibot.mask_sample_probability) == 0:
        messages.append(
            f"The key 'ibot.mask_sample_probability' is {show(ibot.mask_sample_probability)}, and a shard has "
            f"{crops} global crops: none is ever masked."
        )
    if optim.min_lr > optim.base_lr:
        messages.append(
            f"The key 'optim.min_lr' is {show(optim.min_lr)}, above 'optim.base_lr', which is "
            f"{show(optim.base_lr)}: the learning rate rises until the end."
        )
    idle = "elastic" if lambda_ie == 1 else "intact"
    if lambda_ie in (0, 1) and any(
        f"{kind}_{idle}" in terms for kind in ("cross_view", "masked_patch")
    ):
        messages.append(
            f"The key 'dino.lambda_ie' is {show(lambda_ie)}: the terms of the {idle} student under "
            f"'loss.terms' that are on have weight 0."
        )
    return messages


def term_weights(config: Config) -> dict[str, float]:
    """Return the weight of each loss term that is on (POA eq. 10); see `TermsConfig`."""
    dino, ibot = config.dino, config.ibot
    elastic = 1 - dino.lambda_ie
    weights = {
        "cross_view_intact": dino.loss_weight * dino.lambda_ie,
        "cross_view_elastic": dino.loss_weight * elastic,
        "same_view": elastic,
        "masked_patch_intact": ibot.loss_weight * dino.lambda_ie,
        "masked_patch_elastic": ibot.loss_weight * elastic,
        "koleo_intact": dino.koleo_loss_weight,
        "koleo_elastic": dino.koleo_loss_weight,
    }
    on = cast(Mapping[str, bool], config.loss.terms)
    extra = dict(zip(config.loss.extra_terms, config.loss.extra_weights, strict=False))
    return {term: weight for term, weight in weights.items() if on[term]} | extra


def _nothing_to_optimize(config: Config) -> list[str]:
    weights, dino, ibot = term_weights(config), config.dino, config.ibot
    if not weights:
        return ["Every term under 'loss.terms' is off: there is nothing to optimize."]
    used = [term for term, weight in weights.items() if weight > 0]
    if used and config.train.batch_size_per_shard == 1:
        used = [term for term in used if not term.startswith("koleo")]
        if not used:
            return [
                "Only KoLeo is on, and the key 'train.batch_size_per_shard' is 1: an image alone has no "
                "neighbor, and there is nothing to optimize."
            ]
    if not used:
        values = {
            "dino.loss_weight": dino.loss_weight,
            "dino.koleo_loss_weight": dino.koleo_loss_weight,
            "dino.lambda_ie": dino.lambda_ie,
            "ibot.loss_weight": ibot.loss_weight,
        }
        listed = ", ".join(f"{key}={show(value)}" for key, value in values.items())
        return [
            f"Every term under 'loss.terms' that is on has weight 0 ({listed}): there is nothing to optimize."
        ]
    if not all(term.startswith("masked_patch") for term in used):
        return []
    crops = 2 * config.train.batch_size_per_shard
    if ibot.start_epoch > 0:
        why = f"masks start at 'ibot.start_epoch', which is {ibot.start_epoch}"
    elif int(crops * ibot.mask_sample_probability) == 0:
        why = (
            f"'ibot.mask_sample_probability', which is {show(ibot.mask_sample_probability)}, masks none of "
            f"the {crops} global crops of a shard"
        )
    else:
        return []
    return [f"Only masked-patch terms are on, and {why}: there is nothing to optimize."]
