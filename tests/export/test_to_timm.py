"""`to_timm`: stock timm, strictly loaded, gives the features of the extracted network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import poa_plugin as poa
from tests.conftest import FAMILIES
from tests.export.conftest import write
from tests.extraction.test_network import SIZES, WIDE


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_networks(family: str, tmp_path: Path) -> None:
    folder = write(tmp_path, family, *WIDE[family])
    model, network = poa.to_timm(folder), poa.load(folder)
    assert type(model).__module__.startswith("timm.")
    assert not model.training
    images = torch.randn(2, 3, *SIZES[family][0])
    with torch.no_grad():
        wanted = network(images)["x_norm_clstoken"]
        torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-5)


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    folder = write(tmp_path, "vit")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(poa.UserError, match="1 keys are unexpected, such as 'extra'"):
        poa.to_timm(folder)


def test_networks_that_timm_has_not(tmp_path: Path) -> None:
    with pytest.raises(poa.UserError, match=r"cannot be built in timm.*ffn_bias"):
        poa.to_timm(write(tmp_path / "vit", "vit", "student.vit.ffn_bias=false"))
    with pytest.raises(poa.UserError, match=r"cannot be built in timm.*stem_width"):
        poa.to_timm(write(tmp_path / "resnet", "resnet"))
    with pytest.raises(poa.UserError, match="is no extracted network"):
        poa.to_timm(tmp_path / "nothing")


def test_without_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "vit")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        poa.UserError, match=r"needs the package timm: pip install 'poa-plugin\[down"
    ):
        poa.to_timm(folder)
