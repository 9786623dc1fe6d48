"""From an elastic backbone to ordinary networks, in memory and in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.device import on_meta
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.extraction.description import CONFIG, read_description
from poa_plugin.formats.description import TimmDescription, formats_of
from poa_plugin.registry import BACKBONES, import_packages
from poa_plugin.ssl import MultiHead
from poa_plugin.version import __version__
from poa_plugin.weights import check_weights, load_tensors, load_weights, save_tensors

WEIGHTS, HEADS = "model.safetensors", "heads.safetensors"
ADJUSTED, REFUSED = "build_it_with_poa_plugin_to_timm", "timm_has_no_such_network"
"""What stands in the place of an architecture where `local-dir:` would build another network: timm ends in
an error that shows it."""


def extract(backbone: ElasticBackbone, subnet: Subnet | str) -> nn.Module:
    """Return a sub-network as an ordinary module of its own, in evaluation mode.

    Its outputs equal those of `backbone(images, subnet)` in evaluation mode; it shares no storage with the
    backbone.

    Args:
        backbone: an elastic backbone.
        subnet: a member of `backbone.space`, or its name.

    Raises:
        UserError: the sub-network is not a member of the backbone's space.
    """
    subnet = backbone.member(subnet)
    state = backbone.sliced_state_dict(subnet)
    with on_meta():
        network = backbone.plain(subnet)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def write_network(
    folder: Path,
    family: str,
    backbone: ElasticBackbone,
    subnet: Subnet,
    origin: dict[str, Any],
    heads: MultiHead | None = None,
) -> Path:
    """Write a sub-network as `model.safetensors` and `config.json`.

    The weights have timm's names, and `config.json` is the one that timm's `local-dir:` reads, so
    that stock timm loads the folder; under `poa` it carries what `load` needs, the package that registers the
    backbone among it if that is not this one.

    Args:
        folder: made if it is not there.
        family: the backbone's registered name.
        backbone: holds the weights.
        subnet: the member to write.
        origin: where the weights come from, JSON values for `config.json`.
        heads: the projection heads; they and the mask token are written as `heads.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cost = backbone.space.cost(subnet)
    options = backbone.plain_options(subnet)
    package = BACKBONES.package_of(family)
    description = {
        **_for_timm(formats_of(family).timm(options)),
        "poa": {
            "version": __version__,
            "backbone": family,
            "network": subnet.name,
            "width": subnet.width,
            "depth": subnet.total_depth,
            "features": backbone.feature_width(subnet),
            "image_size": backbone.space.image_size,
            "options": options,
            "params": cost.params,
            "flops": cost.flops,
            **({"imports": [package]} if package else {}),
            **origin,
        },
    }
    save_tensors(backbone.sliced_state_dict(subnet), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if heads is not None:
        pretraining = heads.sliced_state_dict(backbone.feature_ratio(subnet))
        pretraining["mask_token"] = backbone.sliced_mask_token(subnet)
        save_tensors(pretraining, folder / HEADS, metadata={"format": "pt"})
    return folder


def load(folder: str | Path) -> nn.Module:
    """Return the ordinary network of a folder that `poa extract` wrote, in evaluation mode.

    Called with (B, C, H, W) images it returns a dict with DINOv2's names (`x_norm_clstoken`, ...).

    A backbone that comes with another package is imported first, if it is not registered: `config.json` names
    the package.

    Raises:
        UserError: the folder is no extracted network, its weights do not fit its description, or the package
            of its backbone cannot be imported.
    """
    folder = Path(folder)
    description = read_description(folder)
    register_backbone(folder, description)
    network = _build(folder, description)
    tensors = load_tensors(folder / WEIGHTS)
    check_weights(network, tensors, folder)
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval()


def register_backbone(folder: Path, description: dict[str, Any]) -> None:
    """Import what registers the backbone of an extracted network.

    Raises:
        UserError: the package that `config.json` names cannot be imported.
    """
    import poa_plugin.builtin  # noqa: F401  (registers the backbones)

    if description["backbone"] not in BACKBONES:
        import_packages(description.get("imports", []), f"'imports' in '{folder / CONFIG}'")


def _build(folder: Path, description: dict[str, Any]) -> nn.Module:
    """Return the network that a description gives, its weights on the meta device."""
    backbone = BACKBONES.get(description["backbone"])
    try:
        with on_meta():
            network: nn.Module = backbone.build_plain(description["options"])
            return network
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"'{folder / CONFIG}' is damaged: its options give no network of the backbone "
            f"'{description['backbone']}' ({reason})."
        ) from error


def load_heads(folder: str | Path) -> tuple[MultiHead, Tensor]:
    """Return the projection heads and the mask token that `poa extract --with-heads` wrote.

    Raises:
        UserError: the folder was written without heads.
    """
    folder = Path(folder)
    description = read_description(folder)
    if "heads" not in description:
        raise UserError(f"'{folder}' was written without heads: extract it with --with-heads.")
    tensors = load_tensors(folder / HEADS)
    mask_token = tensors.pop("mask_token")
    heads = MultiHead(tensors["0.mlp.0.weight"].shape[1], **description["heads"])
    load_weights(heads, tensors, folder)
    return heads.eval(), mask_token


def _for_timm(description: TimmDescription) -> dict[str, Any]:
    """Return what `local-dir:` reads; where that alone would build another network, it names the way."""
    if description.refusal:
        return {"architecture": REFUSED}
    if description.needs_adjusting:
        return {**description.config, "architecture": ADJUSTED}
    return dict(description.config)
