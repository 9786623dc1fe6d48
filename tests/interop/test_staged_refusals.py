"""Swins and ResNets that are not imported: each in one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.backbones.build import build_backbone
from poa_plugin.backbones.swin.windows import relative_positions
from poa_plugin.config.load import default_config
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import write_network
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.interop.fit import fit_config
from tests.conftest import FAMILIES, randomize
from tests.interop.published_files import module_order
from tests.interop.test_other_formats import WORDS
from tests.interop.test_staged import original, save, timm_resnet, timm_swin


def refused(tmp_path: Path, file: Path, *words: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        import_checkpoint(file, tmp_path / "run", words=[*WORDS, *words], **options)
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_extracted_swins_that_no_intact_network_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shifted_stages. is .4,1.: it must be a list"):
        build_backbone(default_config([*FAMILIES["swin"], "student.swin.shifted_stages=[4,1]"]))
    elastic = randomize(build_backbone(default_config(FAMILIES["swin"])))
    folder = write_network(tmp_path / "net", "swin", elastic, elastic.space["w16_d3"], {})
    said = refused(tmp_path, folder / "model.safetensors")
    assert "are shifted by [0, 1, 1]: the network was extracted without some of its blocks" in said
    words = [*FAMILIES["swin"], "student.swin.patch_norm=full"]
    elastic = randomize(build_backbone(default_config(words)))
    folder = write_network(tmp_path / "full", "swin", elastic, elastic.space["w12_d4"], {})
    for _ in range(2):
        said = refused(tmp_path, folder / "model.safetensors")
        assert "patch norm is over 16 channels of which 12 go on" in said
        (folder / "config.json").unlink(missing_ok=True)


TOOL = {"tiny": (96, [2, 2, 6, 2]), "small": (96, [2, 2, 18, 2])}


@pytest.mark.parametrize("name", TOOL)
def test_what_the_published_tool_writes_cannot_be_told(tmp_path: Path, name: str) -> None:
    width, depths = TOOL[name]
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
    words = [
        f"student.swin.max_width={width}",
        f"student.swin.max_depths={depths}".replace(" ", ""),
    ]
    assert "patch norm is cut, and where blocks were left out their shifts are lost" in said
    assert f"--config {' '.join(words)}." in said
    config, _ = fit_config(read_checkpoint(file), None, words)
    assert config.student.swin.patch_norm == "full"
    assert list(config.student.swin.shifted_stages) == [0, 1, 2, 3]


OTHERS = [
    (timm_resnet, {"name": "resnet50"}, "'bn1.running_mean', one of", "group norms"),
    (timm_resnet, {"name": "resnet18"}, "'bn1.running_mean', one of", "group norms"),
    (timm_resnet, {"stem_type": "deep"}, "'conv1.0.weight', one of", "a stem of several"),
    (timm_resnet, {"avg_down": True}, "'layer1.0.downsample.2.weight'", "averages first"),
    (
        timm_resnet,
        {"block_args": {"attn_layer": "se"}},
        "'layer1.0.se.fc1.weight'",
        "over channels",
    ),
    (
        timm_resnet,
        {"cardinality": 2},
        "'layer1.0.conv2.weight' is (64, 32, 3, 3), not",
        "another shape",
    ),
    (timm_swin, {"name": "swinv2_tiny_window8_256"}, "logit_scale', one of", "Swin V2"),
]


@pytest.mark.parametrize(("make", "options", "named", "said"), OTHERS)
def test_networks_that_are_others(
    tmp_path: Path, make: Any, options: dict[str, Any], named: str, said: str
) -> None:
    found = refused(
        tmp_path,
        save(tmp_path, make(**options).state_dict()),
        drop=["fc"] if make is timm_resnet else ["head"],
    )
    assert named in found
    assert said in found


def test_basic_blocks(tmp_path: Path) -> None:
    state = timm_resnet(num_classes=0).state_dict()
    basic = {key: value for key, value in state.items() if "3." not in key.partition(".")[2]}
    assert "no bottlenecks of three convolutions" in refused(tmp_path, save(tmp_path, basic))
    short = {key: value for key, value in state.items() if not key.startswith("layer3")}
    assert "the stages layer1, layer2, layer4," in refused(tmp_path, save(tmp_path, short))
    said = refused(tmp_path, save(tmp_path, state), "student.resnet.groups=24")
    assert "do not tell the number of groups" in said
    file = save(tmp_path, {**state, "bn1.running_mean": torch.zeros(64)})
    assert "cannot be left out" in refused(tmp_path, file, drop=["bn1.running_mean"])


def test_tables_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    state = original(timm_swin(num_classes=0))
    index, mask = "layers.1.blocks.1.attn.relative_position_index", "layers.1.blocks.1.attn_mask"
    for key, wrong in (
        (index, relative_positions(3, torch.device("cpu")).T),
        (index, torch.zeros(3)),
        (mask, torch.zeros_like(state[mask])),
        (mask, torch.zeros(9)),
    ):
        said = refused(tmp_path, save(tmp_path, {**state, key: wrong}))
        assert f"'{key}' in the file is not the one" in said
    moved = {
        key.replace("1.blocks.1.attn_mask", "1.blocks.0.attn_mask"): x for key, x in state.items()
    }
    assert "at the blocks [(1, 0), " in refused(tmp_path, save(tmp_path, moved))
    short = {key: x for key, x in state.items() if not key.startswith("layers.3.")}
    assert "the stages [0, 1, 2]," in refused(tmp_path, save(tmp_path, short))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (timm_swin, "layers.1.blocks.0.attn.relative_position_bias_table"),
        (timm_swin, "layers.2.downsample.reduction.weight"),
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
    for wrong in (torch.zeros(3, 5, 7), torch.tensor(1.0)):
        said = refused(tmp_path, save(tmp_path, {**state, key: wrong}))
        assert f"'{key}' is {tuple(wrong.shape)}" in said
