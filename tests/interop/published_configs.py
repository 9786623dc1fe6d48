"""Configurations as published runs write them beside their checkpoints: every key, for small networks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import yaml

_PART = {
    "sharding_strategy": "SHARD_GRAD_OP",
    "mixed_precision": {"param_dtype": "fp16", "reduce_dtype": "fp16", "buffer_dtype": "fp32"},
}
_HEADS = {
    "head_n_prototypes": [16, 24],
    "head_bottleneck_dim": 16,
    "head_nlayers": 3,
    "head_hidden_dim": 32,
}
_COMMON: dict[str, Any] = {
    "MODEL": {"WEIGHTS": ""},
    "compute_precision": {
        "grad_scaler": True,
        **{
            branch: dict.fromkeys(("backbone", "dino_head", "ibot_head"), _PART)
            for branch in ("teacher", "student")
        },
    },
    "dino": {"loss_weight": 1.0, **_HEADS, "koleo_loss_weight": 0.1, "lambda_ie": 0.7},
    "ibot": {
        "loss_weight": 0.9,
        "mask_sample_probability": 0.4,
        "mask_ratio_min_max": [0.1, 0.3],
        "separate_head": False,
        **_HEADS,
    },
    "train": {
        "batch_size_per_gpu": 6,
        "dataset_path": "ImageNet:split=TRAIN:root=/data",
        "output_dir": "/runs/a",
        "saveckp_freq": 20,
        "seed": 3,
        "num_workers": 10,
        "OFFICIAL_EPOCH_LENGTH": 6,
        "cache_dataset": True,
        "centering": "sinkhorn_knopp",
        "scale_for_num_patch": 4,
    },
    "teacher": {
        "momentum_teacher": 0.99,
        "final_momentum_teacher": 1,
        "warmup_teacher_temp": 0.03,
        "teacher_temp": 0.06,
        "warmup_teacher_temp_epochs": 5,
    },
    "optim": {
        "epochs": 4,
        "ibot_activate_epochs": 2,
        "weight_decay": 0.05,
        "weight_decay_end": 0.3,
        "base_lr": 0.003,
        "lr": 0.003 * math.sqrt(6 * 4 / 1024),
        "warmup_epochs": 1,
        "min_lr": 1e-05,
        "clip_grad": 2.0,
        "freeze_last_layer_epochs": 2,
        "scaling_rule": "sqrt_wrt_1024",
        "patch_embed_lr_mult": 0.2,
        "layerwise_decay": 0.9,
        "adamw_beta1": 0.9,
        "adamw_beta2": 0.999,
        "iter_num_scale": 0.8,
    },
    "crops": {
        "global_crops_scale": [0.4, 1.0],
        "local_crops_number": 3,
        "local_crops_scale": [0.05, 0.4],
        "global_crops_size": 64,
        "local_crops_size": 32,
    },
    "evaluation": {"eval_period_iterations": 12500},
}
_UNREAD = {"width_interval": 1, "depth_interval": 1, "net_select_scale": 3}
STUDENTS: dict[str, dict[str, Any]] = {
    "vit": {
        "arch": "vit_dynamic",
        "min_embed_dim": 32,
        "max_embed_dim": 48,
        "min_depth": 2,
        "max_depth": 4,
        "head_dim": 8,
        "mode": "order",
        "patch_size": 8,
        "drop_path_rate": 0.1,
        "layerscale": 0.1,
        "drop_path_uniform": False,
        "pretrained_weights": "",
        "ffn_layer": "mlp",
        "qkv_bias": True,
        "proj_bias": True,
        "ffn_bias": True,
        "width_interval": 2,
        "depth_interval": 2,
        "net_select_scale": 2,
    },
    "swin": {
        "arch": "swin_dynamic",
        "min_embed_dim": 8,
        "max_embed_dim": 16,
        "min_s3_depth": 2,
        "max_depths": [1, 2, 4, 1],
        "head_dim": 4,
        "mode": "order",
        "patch_size": 4,
        "window_size": 3,
        "drop_path_rate": 0.1,
        "qkv_bias": True,
        "ibot_scale_factor": 2,
        "pretrained_weights": "",
        **_UNREAD,
    },
    "resnet": {
        "arch": "resnet_dynamic",
        "patch_size": 4,
        "min_depths": [1, 1, 1, 1],
        "max_depths": [1, 2, 4, 1],
        "stem_channels": 8,
        "base_channels": 8,
        "num_gn_groups": 4,
        "strides": [1, 2, 2, 2],
        "mode": "order",
        "ibot_scale_factor": 2,
        "pretrained_weights": "",
        **_UNREAD,
    },
}


def published_config(family: str) -> dict[str, Any]:
    """The configuration of a run of alipay/POA on four GPUs."""
    config = copy.deepcopy({**_COMMON, "student": STUDENTS[family]})
    if family == "vit":
        config["crops"]["global_crops_size"] = 48
        config["train"]["scale_for_num_patch"] = 1
    return config


def write_yaml(config: dict[str, Any], path: Path) -> Path:
    """Write a configuration; without aliases, as OmegaConf does."""
    path.write_text(yaml.safe_dump(copy.deepcopy(config)))
    return path
