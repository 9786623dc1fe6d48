"""What a network is called with: images and masks that do not fit are refused with a sentence."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from poa_plugin.backbones import CropBatch, ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import extract, load, write_network
from tests.conftest import FAMILIES

DROP_PATH = {
    "vit": ["student.vit.drop_path_rate=0.4"],
    "swin": ["student.swin.drop_path_rate=0.4"],
    "resnet": [],
}


@lru_cache
def elastic(family: str) -> ElasticBackbone:
    return build_backbone(default_config([*FAMILIES[family], *DROP_PATH[family]])).eval()


@pytest.fixture(params=list(FAMILIES))
def backbone(request: pytest.FixtureRequest) -> ElasticBackbone:
    return elastic(request.param)


IMAGES: dict[str, tuple[Any, str]] = {
    "one channel": (torch.zeros(2, 1, 64, 64), r"shape \(2, 1, 64, 64\).*\(B, 3, H, W\)"),
    "two channels": (torch.zeros(2, 2, 64, 64), r"shape \(2, 2, 64, 64\)"),
    "four channels": (torch.zeros(2, 4, 64, 64), r"shape \(2, 4, 64, 64\)"),
    "no channels": (torch.zeros(2, 0, 64, 64), r"shape \(2, 0, 64, 64\)"),
    "channels last": (torch.zeros(2, 64, 64, 3), r"shape \(2, 64, 64, 3\)"),
    "one image": (torch.zeros(3, 64, 64), r"shape \(3, 64, 64\).*unsqueeze"),
    "a video": (torch.zeros(2, 3, 4, 64, 64), r"shape \(2, 3, 4, 64, 64\)"),
    "a number": (torch.zeros(()), r"shape \(\)"),
    "no pixels": (torch.zeros(2, 3, 0, 0), r"shape \(2, 3, 0, 0\)"),
    "bytes": (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "of type torch.uint8.*normalize"),
    "integers": (torch.zeros(2, 3, 64, 64, dtype=torch.long), "of type torch.int64"),
    "booleans": (torch.zeros(2, 3, 64, 64, dtype=torch.bool), "of type torch.bool"),
    "double": (torch.zeros(2, 3, 64, 64, dtype=torch.double), "torch.float64.*weights.*float32"),
    "half": (torch.zeros(2, 3, 64, 64, dtype=torch.half), "torch.float16.*weights.*float32"),
    "an array": (np.zeros((2, 3, 64, 64), np.float32), "of type ndarray"),
    "nothing": (None, "of type NoneType"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_do_not_fit(backbone: ElasticBackbone, case: str) -> None:
    images, said = IMAGES[case]
    plain = extract(backbone, "smallest")
    calls = [lambda: backbone(images, "smallest"), lambda: plain(images)]
    if isinstance(images, torch.Tensor):
        calls += [
            lambda: backbone([CropBatch(images, backbone.space.intact)]),
            lambda: backbone.get_intermediate_layers(images, 1, "intact"),
            lambda: plain.get_intermediate_layers(images, 1),
        ]
    for call in calls:
        with pytest.raises(UserError, match=said) as error:
            call()
        assert str(error.value).endswith(".")


def test_a_loaded_network_refuses_them_too(backbone: ElasticBackbone, tmp_path: Any) -> None:
    family = {"Vi": "vit", "Sw": "swin", "Re": "resnet"}[type(backbone).__name__[7:9]]
    subnet = backbone.space["smallest"]
    network = load(write_network(tmp_path / "net", family, backbone, subnet, {}))
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        network(torch.zeros(2, 1, 64, 64))


def test_masks_that_do_not_fit(backbone: ElasticBackbone) -> None:
    side = backbone.space.image_size
    rows, columns = backbone.mask_grid(side)
    images, good = torch.zeros(2, 3, side, side), torch.zeros(2, rows * columns, dtype=torch.bool)
    backbone(images, "intact", good)
    wrong = [
        good[:1],
        good[:, 1:],
        good.view(2, rows, columns),
        good.flatten(),
        good.T,
        good.float(),
        good.long(),
        good.to(torch.uint8),
        good.numpy(),
    ]
    for masks in wrong:
        with pytest.raises(UserError, match=rf"torch\.bool and of shape \(2, {rows * columns}\)"):
            backbone(images, "smallest", masks)


def test_images_whose_sides_masks_do_not_divide() -> None:
    backbone = elastic("resnet")
    with pytest.raises(UserError, match="multiples of 16 pixels"):
        backbone(torch.zeros(2, 3, 72, 72), "intact", torch.zeros(2, 16, dtype=torch.bool))


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_has_empty_features(backbone: ElasticBackbone, training: bool) -> None:
    side, subnet = backbone.space.image_size, backbone.space["smallest"]
    images, masks = torch.zeros(0, 3, side, side), torch.zeros(0, 1, dtype=torch.bool)
    masks = masks.expand(0, backbone.mask_grid(side)[0] ** 2)
    some = torch.randn(2, 3, side, side)
    width = backbone.feature_width(subnet)
    try:
        backbone.train(training)
        assert backbone(images, subnet, masks)["x_norm_clstoken"].shape == (0, width)
        both = backbone([CropBatch(images, subnet), CropBatch(some, subnet)])
        assert [len(out["x_norm_clstoken"]) for out in both] == [0, 2]
        sum(out["x_norm_patchtokens"].sum() for out in both).backward()
    finally:
        backbone.zero_grad()
        backbone.eval()
    out = extract(backbone, subnet)(images)
    assert out["x_norm_clstoken"].shape == (0, width)
    assert out["x_norm_patchtokens"].shape[0] == 0


def test_no_inputs_have_no_features(backbone: ElasticBackbone) -> None:
    assert backbone([]) == []


def test_the_checks_are_not_in_a_graph(backbone: ElasticBackbone) -> None:
    side = backbone.space.image_size
    plain, images = extract(backbone, "smallest"), torch.randn(1, 3, side, side)
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = plain(images)["x_norm_clstoken"]
        torch.testing.assert_close(compiled(images)["x_norm_clstoken"], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_are_named(family: str) -> None:
    backbone = elastic(family)
    side, names = backbone.space.image_size, ["intact", list(backbone.space)[1].name]
    images = torch.randn(1, 3, side, side)
    for name in names:
        subnet = backbone.space[name]
        with torch.no_grad():
            expected = backbone(images, subnet)["x_norm_clstoken"]
            assert torch.equal(backbone(images, name)["x_norm_clstoken"], expected)
            actual = extract(backbone, name)(images)["x_norm_clstoken"]
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
            pair = [
                backbone.get_intermediate_layers(images, 1, member)[0] for member in (name, subnet)
            ]
        assert torch.equal(*pair)
        assert backbone.feature_width(name) == expected.shape[1]
    for call in (
        lambda: backbone(images, "w1_d1"),
        lambda: extract(backbone, "w1_d1"),
        lambda: backbone.feature_width("w1_d1"),
        lambda: backbone.get_intermediate_layers(images, 1, "w1_d1"),
    ):
        with pytest.raises(UserError, match="Unknown network 'w1_d1': did you mean"):
            call()
    with pytest.raises(UserError, match="'intact' is a name: a CropBatch takes"):
        backbone([CropBatch(images, "intact")])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not as a int"):
        backbone(images, 3)
