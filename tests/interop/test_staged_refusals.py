"""Swins and ResNets that are not imported: each in one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import write_network
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.interop.fit import fit_config
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES
from tests.interop.published_files import module_order
from tests.interop.test_other_formats import OVERRIDES
from tests.interop.test_staged import save, timm_resnet, timm_swin


def refused(tmp_path: Path, file: Path, *overrides: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        import_checkpoint(file, tmp_path / "run", overrides=[*OVERRIDES, *overrides], **options)
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_extracted_swins_that_no_intact_network_is(tmp_path: Path) -> None:
    elastic = randomize(build_backbone(default_config(FAMILIES["swin"])))
    folder = write_network(tmp_path / "net", "swin", elastic, elastic.space["w16_d3"], {})
    said = refused(tmp_path, folder / "model.safetensors")
    assert "are shifted by [0, 1, 1]: the network was extracted without some of its blocks" in said
    overrides = [*FAMILIES["swin"], "student.swin.patch_norm=full"]
    elastic = randomize(build_backbone(default_config(overrides)))
    folder = write_network(tmp_path / "full", "swin", elastic, elastic.space["w12_d4"], {})
    said = refused(tmp_path, folder / "model.safetensors")
    assert "'patch_embed.norm.weight' is (16,), not (12,)" in said


def test_what_the_published_tool_writes_cannot_be_told(tmp_path: Path) -> None:
    width, depths = 96, [2, 2, 6, 2]
    config = default_config(
        [
            "student.arch=swin",
            f"student.swin.max_width={width}",
            f"student.swin.max_depths={depths}",
        ]
    )
    with torch.device("meta"):
        state = build_backbone(config).state_dict()
    empty = {f"backbone.{key}": torch.zeros(1).expand(x.shape) for key, x in state.items()}
    file = save(tmp_path, module_order(empty, "swin"))
    said = refused(tmp_path, file)
    overrides = [f"student.swin.max_width={width}", f"student.swin.max_depths={depths}"]
    assert "patch norm is cut and its blocks' shifts are lost" in said
    assert f"--config {overrides[0]} '{overrides[1]}'." in said
    config, _ = fit_config(read_checkpoint(file), None, overrides)
    assert config.student.swin.patch_norm == "full"
    assert list(config.student.swin.shifted_stages) == [0, 1, 2, 3]


OTHERS = [
    (timm_resnet, {"name": "resnet50"}, "batch norms in place of group norms ('bn1.running_mean')"),
    (timm_resnet, {"stem_type": "deep"}, "a stem of several convolutions ('conv1.0.weight')"),
    (timm_resnet, {"avg_down": True}, "shortcuts that average first"),
    (timm_resnet, {"block_args": {"attn_layer": "se"}}, "attention over channels"),
    (timm_resnet, {"cardinality": 2}, "'layer1.0.conv2.weight' is (64, 32, 3, 3), not"),
    (timm_swin, {"name": "swinv2_tiny_window8_256"}, "Swin V2's cosine attention"),
]


@pytest.mark.parametrize(("make", "options", "said"), OTHERS)
def test_networks_that_are_others(
    tmp_path: Path, make: Any, options: dict[str, Any], said: str
) -> None:
    state = make(num_classes=0, **options).state_dict()
    assert said in refused(tmp_path, save(tmp_path, state))


def test_other_stages(tmp_path: Path) -> None:
    state = timm_resnet(num_classes=0).state_dict()
    basic = {key: value for key, value in state.items() if "3." not in key.partition(".")[2]}
    assert "4 stages of bottlenecks of three" in refused(tmp_path, save(tmp_path, basic))
    short = {key: value for key, value in state.items() if not key.startswith("layer3")}
    assert "has stages of [1, 2, 0, 1] blocks" in refused(tmp_path, save(tmp_path, short))
    said = refused(tmp_path, save(tmp_path, state), "student.resnet.groups=24")
    assert "do not tell the number of groups" in said
    state = timm_swin(num_classes=0).state_dict()
    short = {key: value for key, value in state.items() if not key.startswith("layers.3.")}
    assert "has stages of [1, 2, 4] blocks" in refused(tmp_path, save(tmp_path, short))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (timm_swin, "layers.1.blocks.0.attn.relative_position_bias_table"),
        (timm_swin, "patch_embed.norm.weight"),
        (timm_resnet, "layer2.1.conv2.weight"),
        (timm_resnet, "bn1.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_each_kind_of_key_by_itself(tmp_path: Path, make: Any, key: str) -> None:
    state = make(num_classes=0).state_dict()
    without = {name: value for name, value in state.items() if name != key}
    assert f"missing: '{key}'" in refused(tmp_path, save(tmp_path, without))
    said = refused(tmp_path, save(tmp_path, {**state, key: torch.zeros(3, 5, 7)}))
    assert f"'{key}' is (3, 5, 7)" in said
