"""The recipes of published runs, from which an imported run starts where its file proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PUBLISHED: Mapping[str, Any] = {
    "loss.normalization": "code",
    "crops.blur": "published",
    "train.shards": 32,
    "train.precision": "fp16",
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "vit": {
        **_PUBLISHED,
        "train.batch_size_per_shard": 50,
        "train.OFFICIAL_EPOCH_LENGTH": 800,
    },
    "swin": {
        **_PUBLISHED,
        "ibot.mask_ratio_min_max": [0.1, 0.3],
        "train.batch_size_per_shard": 64,
        "train.OFFICIAL_EPOCH_LENGTH": 625,
        "optim.epochs": 346,
        "optim.warmup_epochs": 30,
        "optim.layerwise_decay": 0.9,
        "optim.iter_num_scale": 0.9,
    },
    "resnet": {
        **_PUBLISHED,
        "student.resnet.decay_shortcut_norm": True,
        "ibot.mask_ratio_min_max": [0.1, 0.3],
        "train.batch_size_per_shard": 40,
        "train.OFFICIAL_EPOCH_LENGTH": 1000,
        "optim.epochs": 692,
        "optim.warmup_epochs": 30,
        "optim.layerwise_decay": 0.95,
        "optim.iter_num_scale": 1.0,
    },
    "dinov2": {
        **_PUBLISHED,
        "student.vit.drop_path_rate": 0.3,
        "teacher.final_momentum_teacher": 1.0,
        "dino.head_n_prototypes": [65536],
        "dino.lambda_ie": 1.0,
        "ibot.start_epoch": 0,
        "loss.terms.cross_view_elastic": False,
        "loss.terms.same_view": False,
        "loss.terms.masked_patch_elastic": False,
        "loss.terms.koleo_elastic": False,
        "train.batch_size_per_shard": 64,
        "train.OFFICIAL_EPOCH_LENGTH": 1250,
        "optim.epochs": 100,
        "optim.min_lr": 1.0e-06,
        "optim.clip_grad": 3.0,
        "optim.iter_num_scale": 1.0,
    },
}
"""By family, and of DINOv2: where `configs/ssl/<family>.yaml` differs from the schema's defaults."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "vit": {"train.batch_size_per_shard": 64, "train.OFFICIAL_EPOCH_LENGTH": 625},
    "swin": {
        "train.OFFICIAL_EPOCH_LENGTH": 2500,
        "optim.epochs": 100,
        "optim.warmup_epochs": 10,
        "optim.iter_num_scale": 1.0,
    },
    "resnet": {
        "ibot.start_epoch": 50,
        "train.batch_size_per_shard": 64,
        "train.OFFICIAL_EPOCH_LENGTH": 1250,
        "optim.epochs": 100,
        "optim.warmup_epochs": 10,
    },
    "dinov2": {"train.centering": "centering"},
}
"""What the published code uses for keys that a run's configuration leaves out, where it is not the recipe's.

alipay/POA `configs/<family>_ssl_default_config.yaml`, facebookresearch/dinov2 `ssl_default_config.yaml`.
"""
SECTIONS = ("teacher.", "dino.", "ibot.", "loss.", "crops.", "optim.")
OF_TRAINING = ("seed", "shards", "batch_size_per_shard", "OFFICIAL_EPOCH_LENGTH")
RECIPE_KEYS = (*SECTIONS, *(f"train.{key}" for key in (*OF_TRAINING, "centering", "precision")))
"""Keys, and sections, that say how a network is trained; a backbone's own section is one, too."""
