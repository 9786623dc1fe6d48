"""Parameter groups: every trainable parameter in exactly one, with its learning-rate and decay factors."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.elastic.layers import LayerScale

UNDECAYED_MODULES = (nn.LayerNorm, nn.GroupNorm, LayerScale)


def params_groups(
    student: nn.ModuleDict, layerwise_decay: float, patch_embed_lr_mult: float
) -> list[dict[str, Any]]:
    """Return groups under DINOv2's names: `params`, `lr_multiplier`, `wd_multiplier`, `is_last_layer`.

    Learning rates fall by `layerwise_decay` for each block from the top, by a block's index in the
    intact network, and by a further factor in the patch embedding. Biases, normalization layers (but
    for those that the backbone names) and layer scale are not decayed; prototypes (`is_last_layer`)
    can be frozen in the first epoch.

    Args:
        student: modules `backbone` and `dino_head`.
        layerwise_decay: the factor for each block.
        patch_embed_lr_mult: the patch embedding's further factor.
    """
    settings = parameter_settings(student, layerwise_decay, patch_embed_lr_mult)
    parameters = dict(student.named_parameters())
    fused: dict[tuple[float, float, bool], list[str]] = defaultdict(list)
    for name, setting in settings.items():
        fused[setting].append(name)
    return [
        {
            "params": [parameters[name] for name in names],
            "names": names,
            "lr_multiplier": lr,
            "wd_multiplier": wd,
            "is_last_layer": is_last,
        }
        for (lr, wd, is_last), names in fused.items()
    ]


def parameter_settings(
    student: nn.ModuleDict, layerwise_decay: float, patch_embed_lr_mult: float
) -> dict[str, tuple[float, float, bool]]:
    """Return (lr_multiplier, wd_multiplier, is_last_layer) of every trainable parameter."""
    settings = {}
    exceptions = {
        f"{part}.{name}"
        for part, module in student.items()
        if isinstance(module, ElasticBackbone)
        for name in module.decayed_norms()
    }
    for module_name, module in student.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            name = f"{module_name}.{parameter_name}"
            lr = _lr_multiplier(student, name, layerwise_decay)
            if "patch_embed" in name:
                lr *= patch_embed_lr_mult
            undecayed = parameter_name == "bias" or isinstance(module, UNDECAYED_MODULES)
            undecayed = undecayed and name not in exceptions
            settings[name] = (lr, 0.0 if undecayed else 1.0, "last_layer" in name)
    return settings


def _lr_multiplier(student: nn.ModuleDict, name: str, layerwise_decay: float) -> float:
    part, _, inner = name.partition(".")
    module = student[part]
    if not isinstance(module, ElasticBackbone):
        return 1.0
    return float(layerwise_decay ** (module.num_layers - module.layer_id(inner)))
