"""The law: an extracted network is the elastic one, at any size; and stock timm agrees."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import poa_plugin as poa
from poa_plugin.backbones import ElasticBackbone
from poa_plugin.config import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.elastic.layers import ElasticLayers
from poa_plugin.extract import write_network
from poa_plugin.ssl import build_backbone
from tests.conftest import SMALL, randomise

WIDE = [
    *SMALL,
    "student.vit.min_width=16",
    "student.vit.max_width=64",
    "student.vit.min_depth=1",
    "student.vit.max_depth=7",
]


def wide_backbone() -> ElasticBackbone:
    return randomise(build_backbone(default_config(WIDE))).eval()


def members() -> list[Subnet]:
    """Every corner of the space and 20 random members."""
    space = list(wide_backbone().space)
    corners = [Subnet(width, depth) for width in (16, 64) for depth in (1, 7)]
    return corners + random.Random(0).sample(space, 20)


@pytest.mark.parametrize("subnet", members(), ids=lambda subnet: subnet.name)
def test_extraction_equals_the_elastic_forward(subnet: Subnet, tmp_path: Path) -> None:
    import timm

    backbone = wide_backbone()
    folder = write_network(tmp_path / "net", "vit", backbone, subnet, {})
    in_memory, from_folder = poa.extract(backbone, subnet), poa.load(folder)
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        for size in ((48, 48), (32, 32), (64, 64), (24, 56)):
            images = torch.randn(2, 3, *size)
            wanted = backbone(images, subnet)
            for network in (in_memory, from_folder):
                found = network(images)
                for key in ("x_norm_clstoken", "x_norm_patchtokens"):
                    torch.testing.assert_close(found[key], wanted[key], atol=1e-5, rtol=0)
            if size == (48, 48):
                features, pooled = stock.forward_features(images), stock(images)
                torch.testing.assert_close(pooled, wanted["x_norm_clstoken"], atol=1e-5, rtol=0)
                patches = wanted["x_norm_patchtokens"]
                torch.testing.assert_close(features[:, 1:], patches, atol=1e-5, rtol=0)


def test_every_key_is_timms_and_loads_strictly(tmp_path: Path) -> None:
    import timm

    backbone, subnet = wide_backbone(), Subnet(32, 4)
    folder = write_network(tmp_path, "vit", backbone, subnet, {})
    config = json.loads((folder / "config.json").read_text())
    stock = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    stock.load_state_dict(load_file(folder / "model.safetensors"), strict=True)


def test_an_extracted_network_has_nothing_elastic_in_it(backbone: ElasticBackbone) -> None:
    plain = poa.extract(backbone, Subnet(32, 2))
    elastic = (ElasticLayers.layer_norm, ElasticLayers.layer_scale, ElasticLayers.stem_conv)
    assert not any(hasattr(module, "sliced") for module in plain.modules())
    assert not any(isinstance(module, elastic) for module in plain.modules())
    layers = [m for m in plain.modules() if isinstance(m, (nn.Linear, nn.LayerNorm, nn.Conv2d))]
    assert {type(layer) for layer in layers} == {nn.Linear, nn.LayerNorm, nn.Conv2d}


def test_no_storage_is_shared(backbone: ElasticBackbone) -> None:
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    plain = poa.extract(backbone, backbone.space.intact)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


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
