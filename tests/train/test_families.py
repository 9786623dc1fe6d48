"""Every family trains with the same loop: a stopped run goes on bit for bit; recipes differ in a section."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import poa_plugin as poa
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.evaluate.run import EvaluationOptions, evaluate_run
from poa_plugin.extraction.network import load_heads
from poa_plugin.extraction.write import write_networks
from poa_plugin.runs.entries import entries_of
from poa_plugin.runs.run import open_run
from poa_plugin.train.loop import train
from tests.conftest import FAMILIES
from tests.train.test_loop import lines, timeless, weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs/ssl"
DROP_PATH = {"vit": ["student.vit.drop_path_rate=0.2"], "swin": ["student.swin.drop_path_rate=0.2"]}
RUN = [
    "data.dataset=blobs",
    "train.OFFICIAL_EPOCH_LENGTH=3",
    "train.checkpoint_period=2",
    "train.log_period=2",
    "optim.epochs=1",
    "optim.warmup_epochs=1",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_run_goes_on_bit_for_bit_and_its_networks_are_evaluated(
    family: str, tmp_path: Path
) -> None:
    overrides = [*FAMILIES[family], *DROP_PATH.get(family, []), *RUN]
    assert train(default_config([*overrides, f"output_dir={tmp_path / 'whole'}"])).finished
    pieces = default_config(
        [*overrides, f"output_dir={tmp_path / 'run'}", "train.max_minutes=1e-9"]
    )
    assert sum(1 for _ in iter(lambda: train(pieces).finished, True)) > 0
    actual = [weights(tmp_path / name) for name in ("whole", "run")]
    assert actual[0].keys() == actual[1].keys()
    assert all(torch.equal(value, actual[1][key]) for key, value in actual[0].items())
    assert timeless(lines(tmp_path / "whole")) == timeless(lines(tmp_path / "run"))

    run = open_run(tmp_path / "run")
    smallest = run.space["smallest"]
    write_networks(run, {tmp_path / "net": smallest}, with_heads=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = run.backbone()(images, smallest)["x_norm_clstoken"]
        torch.testing.assert_close(
            poa.load(tmp_path / "net")(images)["x_norm_clstoken"], expected, atol=1e-5, rtol=1e-5
        )
        heads, mask_token = load_heads(tmp_path / "net")
        actual, of_run = heads([expected])[0][0], run.heads()([expected])[0][0]
        torch.testing.assert_close(actual, of_run, atol=1e-4, rtol=1e-4)
    assert torch.equal(mask_token, run.backbone().sliced_mask_token(smallest))
    options = EvaluationOptions(["smallest", "intact"], settings={"ks": [3]})
    entries = entries_of(evaluate_run(run, options))
    assert [entry.depth for entry in entries] == [
        smallest.total_depth,
        run.space.intact.total_depth,
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_demo_recipes_differ_in_the_students_section_alone(family: str) -> None:
    own, first = (OmegaConf.load(CONFIGS / f"demo_{name}.yaml") for name in (family, "vit"))
    for config in (own, first):
        config.pop("student")
        config.pop("output_dir")
    assert own == first


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_is_valid_for_every_family(family: str) -> None:
    for file in sorted(CONFIGS.glob("*.yaml")):
        config = poa.load_config(file, [f"student.arch={family}"])
        with torch.device("meta"):
            backbone = build_backbone(config)
        backbone.mask_grid(config.crops.global_crops_size)
        backbone.check_image_size(config.crops.local_crops_size)


@pytest.mark.parametrize(
    ("family", "batch", "epochs", "length", "decay"),
    [
        ("vit", 1600, 346, 800, 0.9),
        ("swin", 2048, 346, 625, 0.9),
        ("resnet", 1280, 692, 1000, 0.95),
    ],
)
def test_the_recipes_are_the_published_ones(
    family: str, batch: int, epochs: int, length: int, decay: float
) -> None:
    config = poa.load_config(CONFIGS / f"{family}.yaml")
    assert config.student.arch == family
    assert config.train.shards * config.train.batch_size_per_shard == batch
    assert (config.optim.epochs, config.train.OFFICIAL_EPOCH_LENGTH) == (epochs, length)
    assert config.optim.layerwise_decay == decay
    assert config.train.shards == 32
