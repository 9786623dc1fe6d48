"""The law: an extracted network is the elastic one, at any size; and stock timm agrees."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import poa_plugin as poa
from poa_plugin.backbones import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.extraction.network import write_network
from poa_plugin.formats import formats_of
from poa_plugin.testing import check_extraction, members_to_check, random_backbone
from tests.conftest import FAMILIES

WIDE = {
    "vit": [
        "student.vit.min_width=16",
        "student.vit.max_width=64",
        "student.vit.min_depth=1",
        "student.vit.max_depth=7",
    ],
    "swin": [
        "student.swin.min_width=4",
        "student.swin.window_size=2",
        "student.swin.max_depths=[2,2,7,2]",
    ],
    "resnet": [
        "student.resnet.min_width=32",
        "student.resnet.max_width=96",
        "student.resnet.width_step=32",
        "student.resnet.min_depths=[1,1,1,1]",
        "student.resnet.max_depths=[1,3,7,2]",
        "student.resnet.stem_width=64",
        "student.resnet.out_width=128",
        "student.resnet.groups=32",
    ],
}
SIZES = {
    "vit": [(48, 48), (32, 32), (64, 64), (24, 56)],
    "swin": [(64, 64), (32, 32), (40, 40), (52, 84)],
    "resnet": [(64, 64), (32, 32), (41, 55)],
}
"""The first is the native size; the window divides no map of Swin's last two."""


@lru_cache
def wide_backbone(family: str) -> ElasticBackbone:
    words = default_config([*FAMILIES[family], *WIDE[family]])
    return random_backbone(words)


def members() -> list[tuple[str, Subnet]]:
    """Every corner of the spaces and 20 random members of each."""
    return [
        (family, subnet)
        for family in FAMILIES
        for subnet in members_to_check(wide_backbone(family).space)
    ]


@pytest.mark.parametrize(("family", "subnet"), members(), ids=str)
def test_extraction_equals_the_elastic_forward(family: str, subnet: Subnet, tmp_path: Path) -> None:
    backbone = wide_backbone(family)
    folder = write_network(tmp_path / "net", family, backbone, subnet, {})
    networks = [poa.extract(backbone, subnet), poa.load(folder)]
    for size in SIZES[family]:
        check_extraction(backbone, subnet, networks, torch.randn(2, 3, *size))
    native = torch.randn(2, 3, *SIZES[family][0])
    with torch.no_grad():
        pooled = in_timm(family, backbone, subnet, folder)(native)
        wanted = backbone(native, subnet)["x_norm_clstoken"]
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-5)


def in_timm(family: str, backbone: ElasticBackbone, subnet: Subnet, folder: Path) -> nn.Module:
    """Build the network in stock timm and load its weights strictly."""
    import timm

    description = formats_of(family).timm(backbone.plain_options(subnet))
    config = description.config
    if not description.needs_adjusting:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    network = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    description.adjust(network)
    return network.eval()


def test_every_key_is_timms_and_loads_strictly(tmp_path: Path) -> None:
    import timm

    backbone, subnet = wide_backbone("vit"), Subnet(32, 4)
    folder = write_network(tmp_path, "vit", backbone, subnet, {})
    config = json.loads((folder / "config.json").read_text())
    stock = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    stock.load_state_dict(load_file(folder / "model.safetensors"), strict=True)


def test_a_small_vit_file_has_a_small_vits_size(tmp_path: Path) -> None:
    words = ["student.arch=vit", "student.vit.max_width=448", "student.vit.max_depth=13"]
    backbone = build_backbone(default_config(words))
    folder = write_network(tmp_path, "vit", backbone, backbone.space["small"], {})
    size = (folder / "model.safetensors").stat().st_size
    assert size == pytest.approx(4 * 21_674_880, rel=1e-3)
    config = json.loads((folder / "config.json").read_text())
    assert config["poa"]["params"] == 21_674_880
    assert config["poa"]["flops"] == pytest.approx(4.6e9, rel=1e-2)


def test_load_names_what_is_wrong(tmp_path: Path, backbone: ElasticBackbone) -> None:
    with pytest.raises(poa.UserError, match=r"no config\.json"):
        poa.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(poa.UserError, match="not written by 'poa extract'"):
        poa.load(tmp_path)
    write_network(tmp_path, "vit", backbone, Subnet(32, 2), {})
    config = json.loads((tmp_path / "config.json").read_text())
    config["poa"]["options"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(poa.UserError, match=r"another architecture.*'blocks\.2\.attn"):
        poa.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(poa.UserError, match="cannot be read"):
        poa.load(tmp_path)
