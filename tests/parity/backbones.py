"""Every sub-network's outputs, block choice and place in the sampling list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic.subnet import Subnet

from .golden import Case, Golden, compare
from .published import backbone_key, backbone_words, linear_layers, network, rename

TOLERANCE = 1e-5
Compare = Callable[[str, Tensor, Tensor | None], Case]


def backbone_cases(golden: Golden, family: str) -> Iterator[Case]:
    """Yield the cases of one family's backbone."""
    meta = golden.meta(family)
    if meta is None:
        yield Case(f"{family} backbone", absent=True, remark="no meta file in this folder")
        return
    files = meta["files"]
    backbone = _build(family, meta["config"])
    state = golden.arrays(files["state"])
    backbone.load_state_dict(rename(state, "", backbone_key(family)), strict=True)
    backbone.eval()
    inputs, outputs = golden.arrays(files["inputs"]), golden.arrays(files["outputs"])
    yield from _space_cases(family, backbone, meta)
    tolerance = max(TOLERANCE, 2 * meta.get("fp32_vs_fp64_max_abs", 0.0))
    for own in meta["networks"]:
        subnet = network(own["width"], own["depth"])
        with torch.no_grad():
            yield from output_cases(family, backbone, subnet, inputs, outputs, tolerance)


def _build(family: str, options: dict[str, Any]) -> ElasticBackbone:
    words = backbone_words(family, options)
    size = f"crops.global_crops_size={options['img_size']}"
    return build_backbone(default_config([f"student.arch={family}", size, *words]))


def _space_cases(family: str, backbone: Any, meta: dict[str, Any]) -> Iterator[Case]:
    space, networks = backbone.space, meta["networks"]
    ours = [(subnet.name, times) for subnet, times in zip(space, space.multiplicities, strict=True)]
    theirs = [(network["name"], network["multiplicity"]) for network in networks]
    yield Case(f"{family} networks and multiplicities", float(ours != theirs), 0)
    order = [name for name, times in ours for _ in range(times)]
    wanted = meta.get("networks_in_official_order")
    if wanted is None:
        yield Case(f"{family} order of the list", absent=True)
    else:
        yield Case(f"{family} order of the list", float(order != wanted), 0)
    different = [
        network["name"]
        for network in networks
        if backbone.active_blocks(space[network["name"]]) != network["block_ids"]
    ]
    yield Case(f"{family} block ids", float(len(different)), 0, " ".join(different))


def output_cases(
    family: str,
    backbone: Any,
    subnet: Subnet,
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    tolerance: float,
) -> Iterator[Case]:
    """Yield the comparisons of one sub-network, for every view."""

    def against(name: str, found: Tensor, wanted: Tensor | None) -> Case:
        """Compare; without a norm at the end, errors are as large as the outputs themselves."""
        unbounded = family == "resnet" and wanted is not None
        scale = max(1.0, float(wanted.abs().max())) if unbounded else 1.0
        return compare(name, found, wanted, scale * tolerance)

    views = {
        "global": (inputs.get("global"), None),
        "masked": (inputs.get("global"), inputs.get("masks")),
        "local": (inputs.get("local"), None),
    }
    for view, (images, masks) in views.items():
        name = f"{family} {subnet.name}/{view}"
        if images is None or (view == "masked" and masks is None):
            yield Case(name, absent=True, remark="no input in this folder")
            continue
        features = backbone(images, subnet, masks)
        for token, key in (("cls", "x_norm_clstoken"), ("patch", "x_norm_patchtokens")):
            wanted = outputs.get(f"{subnet.name}/{view}/{token}")
            yield against(f"{name}/{token}", features[key], wanted)
        if view == "global":
            wanted = outputs.get(f"{subnet.name}/knn")
            found = features["x_norm_clstoken"]
            yield against(f"{family} {subnet.name}/knn", found, wanted)
    yield from _linear_cases(family, backbone, subnet, inputs["global"], outputs, against)


def _linear_cases(
    family: str,
    backbone: Any,
    subnet: Subnet,
    images: Tensor,
    outputs: dict[str, Tensor],
    against: Compare,
) -> Iterator[Case]:
    """Linear features of four blocks or stages."""
    name, indices = f"{family} {subnet.name}/lin4", linear_layers(family, subnet)
    wanted = [outputs.get(f"{subnet.name}/lin4/{key}") for key in ("cls", "avg_last")]
    if indices is None and wanted == [None, None]:
        return
    taken = backbone.get_intermediate_layers(images, indices, subnet, return_class_token=True)
    yield against(f"{name}/cls", torch.cat([cls for _, cls in taken], -1), wanted[0])
    yield against(f"{name}/avg_last", taken[-1][0].mean(1), wanted[1])
    later = outputs.get(f"{subnet.name}/multistage")
    if later is not None:
        found = torch.cat([cls for _, cls in taken[1:]], -1)
        yield against(f"{family} {subnet.name}/multistage", found, later)
