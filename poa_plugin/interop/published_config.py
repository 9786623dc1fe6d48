"""The configuration that a published run wrote beside its checkpoints (`config.yaml`), in this package's keys.

alipay/POA and facebookresearch/dinov2 share most keys. Every key is used, or comes back with a reason why not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.interop.recipes import DEFAULTS, RECIPES

_THE_SAME: Mapping[str, str] = {
    "dino": "loss_weight head_n_prototypes head_bottleneck_dim head_nlayers head_hidden_dim "
    "koleo_loss_weight lambda_ie",
    "ibot": "loss_weight mask_sample_probability mask_ratio_min_max",
    "train": "OFFICIAL_EPOCH_LENGTH centering",
    "teacher": "momentum_teacher final_momentum_teacher warmup_teacher_temp teacher_temp "
    "warmup_teacher_temp_epochs",
    "optim": "epochs base_lr scaling_rule warmup_epochs min_lr iter_num_scale weight_decay "
    "weight_decay_end clip_grad freeze_last_layer_epochs patch_embed_lr_mult layerwise_decay "
    "adamw_beta1 adamw_beta2",
    "crops": "global_crops_scale global_crops_size local_crops_scale local_crops_size local_crops_number",
}
_PRECISION = "compute_precision.student.backbone.mixed_precision.param_dtype"
KEYS: Mapping[str, str] = {
    **{
        f"{part}.{key}": f"{part}.{key}" for part, keys in _THE_SAME.items() for key in keys.split()
    },
    "train.batch_size_per_gpu": "train.batch_size_per_shard",
    "optim.ibot_activate_epochs": "ibot.start_epoch",
    _PRECISION: "train.precision",
}
"""Ours for theirs, in every section but `student`."""
STUDENT: Mapping[str, Mapping[str, str]] = {
    "vit": {
        "min_embed_dim": "min_width",
        "max_embed_dim": "max_width",
        "depth_interval": "depth_step",
        **{key: key for key in ("min_depth", "max_depth", "head_dim", "patch_size", "layerscale")},
        **{key: key for key in ("drop_path_rate", "drop_path_uniform", "net_select_scale")},
        **{key: key for key in ("qkv_bias", "proj_bias", "ffn_bias")},
    },
    "swin": {
        "min_embed_dim": "min_width",
        "max_embed_dim": "max_width",
        "min_s3_depth": "min_depth",
        **{key: key for key in ("max_depths", "head_dim", "patch_size", "window_size")},
        **{key: key for key in ("drop_path_rate", "qkv_bias", "ibot_scale_factor")},
    },
    "resnet": {
        "stem_channels": "stem_width",
        "num_gn_groups": "groups",
        **{key: key for key in ("min_depths", "max_depths", "strides", "ibot_scale_factor")},
    },
}
"""Ours for theirs in `student`, by family."""
SIZES = {
    "vit_small": (384, 12),
    "vit_base": (768, 12),
    "vit_large": (1024, 24),
    "vit_giant2": (1536, 40),
}
"""Width and depth of DINOv2's architectures; heads are 64 wide in all."""
DERIVED = {"student.arch", "optim.lr"}
DERIVED_BY_FAMILY = {"vit": "width_interval", "swin": "", "resnet": "base_channels"}
"""Keys from which more than one value of ours follows."""
SETTLED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "student.mode": (("order",), "only the first channels make a sub-network here"),
    "student.ffn_layer": (("mlp",), "the backbone here has two linear layers and a GELU"),
    "student.num_register_tokens": ((0,), "the backbone here has no register tokens"),
    "student.interpolate_antialias": ((False,), "positions are resized without antialiasing here"),
    "student.interpolate_offset": ((0.1,), "positions are resized with an offset of 0.1 here"),
}
"""Keys that have one possible value here; another one is refused."""
_LAYOUT = "how modules are laid out or sharded, which changes no result"
_HERE = "it depends on the machine: set data.path, data.num_workers and --to"
_UNREAD = "the published code does not read it"
_HEADS = "heads are shared with the cls token here"
_PARTS = "one precision for all parts here, sums in float32"
UNUSED: Mapping[str, str] = {
    "MODEL.WEIGHTS": "weights come from the file that is imported",
    "student.pretrained_weights": "weights come from the file that is imported",
    "student.block_chunks": _LAYOUT,
    "compute_precision.grad_scaler": "train.precision=fp16 always scales its gradients",
    "train.dataset_path": _HERE,
    "train.output_dir": _HERE,
    "train.num_workers": _HERE,
    "train.cache_dataset": _UNREAD,
    "train.saveckp_freq": _UNREAD,
    "train.seed": f"{_UNREAD}, its seed is always 0",
    "train.scale_for_num_patch": "masks lie on the grid of the patch tokens here",
    "evaluation.eval_period_iterations": "evaluation is a command here, `poa eval`",
    **{f"ibot.{key}": _HEADS for key in ("separate_head", "head_n_prototypes", "head_nlayers")},
    **{f"ibot.{key}": _HEADS for key in ("head_bottleneck_dim", "head_hidden_dim")},
    **{
        f"compute_precision.{branch}.{part}.{key}": reason
        for branch in ("teacher", "student")
        for part in ("backbone", "dino_head", "ibot_head")
        for key, reason in (
            ("sharding_strategy", _LAYOUT),
            ("mixed_precision.param_dtype", _PARTS),
            ("mixed_precision.reduce_dtype", _PARTS),
            ("mixed_precision.buffer_dtype", _PARTS),
        )
    },
}
"""Keys that are not used, and why."""
UNREAD_BY_FAMILY = {
    "swin": ("width_interval", "depth_interval", "net_select_scale"),
    "resnet": ("width_interval", "depth_interval", "net_select_scale", "patch_size"),
}
_STUDENT_KEYS = {
    f"student.{key}"
    for family, table in STUDENT.items()
    for key in (*table, DERIVED_BY_FAMILY[family], *UNREAD_BY_FAMILY.get(family, ()))
}
PUBLISHED = {*KEYS, *DERIVED, *SETTLED, *UNUSED, *_STUDENT_KEYS}
"""Every key that is known."""


@dataclass
class PublishedConfig:
    """A published configuration in our keys.

    Attributes:
        values: what the file says.
        defaults: what the published code uses for what the file leaves out.
        recipe: whose recipe this is, a key of `RECIPES`.
        lines: sentences about keys that are not used.
    """

    values: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    recipe: str = "vit"
    lines: list[str] = field(default_factory=list)


def is_published(given: Collection[str], ours: Collection[str]) -> bool:
    """Tell whether a configuration is a published run's: it has a key of theirs that is not ours.

    Args:
        given: the file's keys.
        ours: every key of our schema.
    """
    return any(key in PUBLISHED and key not in ours for key in given)


def read_published(
    given: Mapping[str, Any], ours: Collection[str], family: str, name: str, dinov2: bool
) -> PublishedConfig:
    """Return a published configuration in our keys.

    Args:
        given: the file's values, by dotted keys.
        ours: every key of our schema; a file may have been extended by some of them.
        family: of the checkpoint's backbone.
        name: of the file, for sentences.
        dinov2: whether the checkpoint is of DINOv2's format.

    Raises:
        UserError: the configuration is of a network that the backbones here cannot be.
    """
    arch = str(given.get("student.arch", "")).removesuffix("_memeff")
    config = PublishedConfig(recipe=_recipe(arch, family, name, dinov2))
    student = STUDENT[family]
    unread = {f"student.{key}" for key in UNREAD_BY_FAMILY.get(family, ())}
    unused: dict[str, list[str]] = {}
    for key, value in given.items():
        inner = key.removeprefix("student.")
        if key in DERIVED or inner == DERIVED_BY_FAMILY[family]:
            continue
        if key in unread:
            unused.setdefault(f"{_UNREAD} for this family", []).append(key)
        elif key in KEYS:
            config.values[KEYS[key]] = value
        elif key.startswith("student.") and inner in student:
            config.values[f"student.{family}.{student[inner]}"] = value
        elif key in SETTLED:
            _refuse_other(key, value, name)
        elif key in UNUSED:
            if not (key.endswith("param_dtype") and value == given.get(_PRECISION)):
                unused.setdefault(UNUSED[key], []).append(key)
        elif key in ours:
            config.values[key] = value
        else:
            unused.setdefault("unknown here, and in the published code", []).append(key)
    config.values |= _derived(config, given, arch, family)
    config.defaults = {**RECIPES[config.recipe], **DEFAULTS[config.recipe]}
    config.lines += [
        f"Not used of it: {', '.join(keys)} ({reason})." for reason, keys in unused.items()
    ]
    config.lines.append(_gpus(config, given))
    return config


def _recipe(arch: str, family: str, name: str, dinov2: bool) -> str:
    """Return whose recipe a configuration is, and refuse one of another family."""
    if arch in SIZES or (not arch and dinov2):
        recipe, of = "dinov2", "vit"
    else:
        recipe = of = arch.removesuffix("_dynamic") if arch else family
    if of not in STUDENT or (arch and arch not in SIZES and not arch.endswith("_dynamic")):
        known = ", ".join([*(f"{family}_dynamic" for family in STUDENT), *SIZES])
        raise UserError(f"The student.arch in '{name}' is '{arch}', which is none of {known}.")
    if of != family:
        raise UserError(f"The student.arch in '{name}' is '{arch}', but the file holds a {family}.")
    return recipe


def _derived(
    config: PublishedConfig, given: Mapping[str, Any], arch: str, family: str
) -> dict[str, Any]:
    """Return values that follow from more than one key, or from an architecture's name."""
    values, student = config.values, f"student.{family}"
    derived: dict[str, Any] = {}
    if arch in SIZES:
        sizes = (*SIZES[arch], 64)
        for key, value in zip(("max_width", "max_depth", "head_dim"), sizes, strict=True):
            derived[f"{student}.{key}"] = value
    elif family == "vit" and "student.width_interval" in given:
        head_dim = _whole(f"{student}.head_dim", values.get(f"{student}.head_dim", 64))
        step = _whole("student.width_interval", given["student.width_interval"]) * head_dim
        derived[f"{student}.width_step"] = step
    elif family == "swin" and f"{student}.head_dim" in values:
        derived[f"{student}.width_step"] = values[f"{student}.head_dim"]
    elif family == "resnet" and "student.base_channels" in given:
        base = _whole("student.base_channels", given["student.base_channels"])
        for key, value in (("min_width", base), ("max_width", 2 * base), ("out_width", 4 * base)):
            derived[f"{student}.{key}"] = value
        derived[f"{student}.width_step"] = values.get(f"{student}.groups", 32)
    prototypes = values.get("dino.head_n_prototypes")
    if isinstance(prototypes, int):
        derived["dino.head_n_prototypes"] = [prototypes]
    if values.get(f"{student}.layerscale") == 0:
        derived[f"{student}.layerscale"] = None
    return derived


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"The key '{key}' is {value}: it must be a whole number above 0.")
    return value


def _gpus(config: PublishedConfig, given: Mapping[str, Any]) -> str:
    """Set `train.shards`, the number of GPUs: no key says it, but the scaled learning rate does."""
    values = {**config.defaults, "optim.base_lr": 0.004, **config.values}
    scaled, base = given.get("optim.lr"), values["optim.base_lr"]
    batch = values["train.batch_size_per_shard"]
    if all(isinstance(x, (int, float)) and x > 0 for x in (scaled, base, batch)):
        gpus = (float(scaled or 0) / base) ** 2 * 1024 / batch
        if round(gpus) >= 1 and abs(gpus - round(gpus)) < 0.001 * gpus:
            config.values["train.shards"] = round(gpus)
            return f"train.shards={round(gpus)}: as many GPUs make optim.lr={scaled} of the base_lr {base}."
    assumed = config.defaults["train.shards"]
    return (
        f"How many GPUs the run had is not in its configuration: train.shards={assumed} is the published "
        f"recipe's; --config train.shards=... changes it."
    )


def _refuse_other(key: str, value: Any, name: str) -> None:
    possible, reason = SETTLED[key]
    if value not in possible:
        raise UserError(
            f"The {key} in '{name}' is {value}, which cannot be imported: {reason} ({key}={possible[0]})."
        )
