"""The configuration that a published run wrote beside its checkpoints (`config.yaml`), in this package's keys.

alipay/POA and facebookresearch/dinov2 share most keys with this package; keys with other names are translated.
Every key is used, or named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from poa_plugin.errors import UserError

KEYS: Mapping[str, str] = {
    "train.batch_size_per_gpu": "train.batch_size_per_shard",
    "optim.ibot_activate_epochs": "ibot.start_epoch",
    "compute_precision.student.backbone.mixed_precision.param_dtype": "train.precision",
}
"""Ours for theirs, where they differ; of `student` see below."""
STUDENT: Mapping[str, str] = {
    "min_embed_dim": "min_width",
    "max_embed_dim": "max_width",
    "depth_interval": "depth_step",
    "min_s3_depth": "min_depth",
    "stem_channels": "stem_width",
    "num_gn_groups": "groups",
}
"""Ours, in `student.<family>`, for theirs, in `student`, where they differ."""
DERIVED = {
    "student.arch": "",
    "optim.lr": "",
    "student.width_interval": "vit",
    "student.base_channels": "resnet",
}
"""Keys from which values under other names follow, for one family or for all."""
UNREAD = {"width_interval", "depth_interval", "net_select_scale"}
"""Keys of `student` that the published code reads for the ViT only."""
SIZES = {
    "vit_small": (384, 12),
    "vit_base": (768, 12),
    "vit_large": (1024, 24),
    "vit_giant2": (1536, 40),
}
"""Width and depth of DINOv2's architectures; heads are 64 wide in all."""
FIXED: Mapping[str, Any] = {
    "student.mode": "order",
    "student.ffn_layer": "mlp",
    "student.num_register_tokens": 0,
    "student.interpolate_antialias": False,
    "student.interpolate_offset": 0.1,
}
"""Keys that have one possible value here; another one is refused."""


@dataclass(frozen=True)
class PublishedConfig:
    """What a published configuration says, by our keys; the recipe for what it leaves out; messages."""

    values: dict[str, Any]
    recipe: str
    messages: list[str]


def is_published(keys: Collection[str], our_keys: Collection[str]) -> bool:
    """Tell whether a configuration is a published run's: it has a key of theirs that is not ours."""
    marks = {*KEYS, *DERIVED, *FIXED, *(f"student.{key}" for key in STUDENT)}
    return any(key in marks and key not in our_keys for key in keys)


def read_published(
    theirs: Mapping[str, Any], our_keys: Collection[str], family: str, name: str, is_dinov2: bool
) -> PublishedConfig:
    """Return a published configuration in our keys.

    Args:
        theirs: the file's values, by dotted keys.
        our_keys: every key of our schema; a file may have been extended by some of them.
        family: of the checkpoint's backbone.
        name: of the file, for sentences.
        is_dinov2: whether the checkpoint is of DINOv2's format.

    Raises:
        UserError: the configuration is of a network that the backbones here cannot be.
    """
    arch = str(theirs.get("student.arch", "")).removesuffix("_memeff")
    arch_family = "vit" if arch in SIZES else arch.removesuffix("_dynamic")
    if arch and arch_family != family:
        raise UserError(f"The student.arch in '{name}' is '{arch}', but the file holds a {family}.")
    values: dict[str, Any] = {"train.seed": 0}  # the published code does not read the key
    unused = []
    for key, value in theirs.items():
        ours = _our_key(key, family)
        if key in FIXED:
            if value != FIXED[key]:
                raise UserError(
                    f"The {key} in '{name}' is {value}, and can only be {FIXED[key]} here."
                )
        elif ours in our_keys:
            values[ours] = value
        elif DERIVED.get(key, "none") not in ("", family):
            unused.append(key)
    values |= _derived(theirs, values, arch, family)
    recipe = "dinov2_vit" if arch in SIZES or (not arch and is_dinov2) else family
    messages = [f"Not used of '{name}': {', '.join(unused)}."] if unused else []
    gpus = _gpus(theirs)
    if gpus:
        values["train.shards"] = gpus
        messages.append(f"train.shards={gpus}: as many GPUs make the optim.lr of '{name}'.")
    else:
        messages.append(
            f"How many GPUs the run had is not in '{name}': train.shards is that of the recipe '{recipe}'; "
            f"--config train.shards=... changes it."
        )
    return PublishedConfig(values, recipe, messages)


def _our_key(key: str, family: str) -> str:
    """Return our key for theirs; empty if there is none."""
    inner = key.removeprefix("student.")
    if key in {*DERIVED, "train.seed"} or (inner in UNREAD and family != "vit"):
        return ""
    if inner == key or inner.startswith(f"{family}."):
        return KEYS.get(key, key)
    return f"student.{family}.{STUDENT.get(inner, inner)}"


def _gpus(theirs: Mapping[str, Any]) -> int | None:
    """Return how many GPUs a run had: no key says it, but the scaled learning rate does."""
    keys = ("optim.lr", "optim.base_lr", "train.batch_size_per_gpu")
    lr, base_lr, batch_size = (theirs.get(key, 0) for key in keys)
    if not all(isinstance(x, (int, float)) and x > 0 for x in (lr, base_lr, batch_size)):
        return None
    gpus = (lr / base_lr) ** 2 * 1024 / batch_size
    return round(gpus) if round(gpus) >= 1 and abs(gpus - round(gpus)) < 0.001 * gpus else None


def _derived(
    theirs: Mapping[str, Any], values: Mapping[str, Any], arch: str, family: str
) -> dict[str, Any]:
    """Return values that follow from more than one key, or from an architecture's name."""
    student = f"student.{family}"
    derived: dict[str, Any] = {}
    if arch in SIZES:
        width, depth = SIZES[arch]
        derived = {f"{student}.max_width": width, f"{student}.max_depth": depth}
        derived[f"{student}.head_dim"] = 64
    elif family == "vit" and "student.width_interval" in theirs:
        interval = theirs["student.width_interval"]
        derived[f"{student}.width_step"] = interval * values.get(f"{student}.head_dim", 64)
    elif family == "swin" and f"{student}.head_dim" in values:
        derived[f"{student}.width_step"] = values[f"{student}.head_dim"]
    elif family == "resnet" and "student.base_channels" in theirs:
        for factor, key in ((1, "min_width"), (2, "max_width"), (4, "out_width")):
            derived[f"{student}.{key}"] = factor * theirs["student.base_channels"]
        derived[f"{student}.width_step"] = values.get(f"{student}.groups", 32)
    prototypes = values.get("dino.head_n_prototypes")
    if isinstance(prototypes, int):
        derived["dino.head_n_prototypes"] = [prototypes]
    if values.get(f"{student}.layerscale") == 0:
        derived[f"{student}.layerscale"] = None
    return derived
