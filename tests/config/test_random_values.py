"""Every key with random values: a sentence and exit status 2, or a model that builds and trains a step."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import torch
import yaml

from poa_plugin.cli import main
from poa_plugin.config.keys import Key, all_keys
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.data import build_dataset
from poa_plugin.data.loader import Batches
from poa_plugin.loggers import check_loggers
from poa_plugin.registry import META_ARCHS, import_packages
from poa_plugin.ssl import check_model
from poa_plugin.train import loop
from poa_plugin.train.schedules import Schedules
from tests.config.random_values import annotated, draw
from tests.conftest import FAMILIES

SEED = int(os.environ.get("POA_RANDOM_SEED", "1"))
COUNT = int(os.environ.get("POA_RANDOM_VALUES", "120"))
"""How many single keys are drawn; a quarter as many draws set two keys at once."""
TRAINS_EVERY = 20
LARGEST = 200e6
"""Bytes of weights, gradients and moments that a step is taken with."""
MINE = """
from dataclasses import dataclass, field
from poa_plugin.backbones import ElasticVisionTransformer
from poa_plugin.backbones.vit.options import ViTOptions
from poa_plugin.config.fields import choice, number, numbers
from poa_plugin.registry import BACKBONES

@dataclass
class Extra:
    gain: float = 1.0

@dataclass
class Options(ViTOptions):
    declared: int = number(4, "of something", at_least=1, at_most=8)
    pair: list[float] = numbers([0.1, 0.2], "of something", at_least=0, below=1, length=2)
    kind: str = choice("plain", ("plain", "gated"), "of block")
    divisor: int = 1
    factor: float = 1.0
    size: int | None = None
    names: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    extra: Extra = field(default_factory=Extra)

if "mine" not in BACKBONES:
    @BACKBONES.register_as("mine")
    class Mine(ElasticVisionTransformer):
        Options = Options

        @classmethod
        def from_options(cls, options, image_size):
            12 // options.divisor
            [0, 1, 2, 3][options.divisor]
            assert options.factor < 100
            if options.size is not None:
                range(10)[options.size] / len(options.names)
            {"a": 1}[next(iter(options.table), "a")]
            return super().from_options(options, image_size)
"""


class Draws:
    """Random overrides, the base configuration that each is laid over, and what became of them."""

    def __init__(self, folder: Path) -> None:
        self.rng = Random(SEED)
        (folder / "random_backbone.py").write_text(MINE)
        import_packages(["random_backbone"], "the test")
        self.files = {name: self._write(folder, name) for name in (*FAMILIES, "mine")}
        self.keys = list(all_keys().leaves())
        self.accepted = self.trained = 0

    def _write(self, folder: Path, family: str) -> Path:
        overrides = FAMILIES.get(family, [w.replace("vit", "mine") for w in FAMILIES["vit"]])
        tree: dict[str, object] = {"output_dir": str(folder / "run"), "imports": []}
        if family == "mine":
            tree["imports"] = ["random_backbone"]
        short = ["optim.epochs=1", "train.OFFICIAL_EPOCH_LENGTH=1", "train.max_minutes=1e-9"]
        for word in [*overrides, *short, "data.dataset=blobs", "train.threads=1"]:
            key, value = word.split("=")
            below = tree
            for part in key.split(".")[:-1]:
                below = below.setdefault(part, {})  # type: ignore[assignment]
            below[key.split(".")[-1]] = yaml.safe_load(value) if value[0] == "[" else value
        file = folder / f"{family}.yaml"
        file.write_text(yaml.safe_dump(tree))
        return file

    def file_for(self, key: Key, number: int) -> Path:
        """Return a base in which a key is used."""
        parts = key.name.split(".")
        names = list(self.files)
        family = parts[1] if parts[0] == "student" and len(parts) > 2 else names[number % 4]
        return self.files[family]


@pytest.fixture
def draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draws:
    """Draws in an empty folder that is also the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return Draws(tmp_path)


def construct(config: Config) -> loop.Outcome:
    """Make everything that training makes before its first step, the model on the meta device."""
    check_model(config)
    check_loggers(config)
    dataset = build_dataset(config, "train")
    with torch.device("meta"):
        model = META_ARCHS.get(config.meta_arch)(config)
    betas = (config.optim.adamw_beta1, config.optim.adamw_beta2)
    torch.optim.AdamW(model.get_params_groups(), lr=0.0, weight_decay=0.0, betas=betas)
    schedules = Schedules(config)
    for step in {0, schedules.total_steps // 2, schedules.total_steps - 1}:
        schedules(step)
    Batches(config, dataset, model.mask_grid)
    return loop.Outcome(finished=True)


def is_small(config: Config) -> bool:
    """Return whether a step takes a moment."""
    crops, train = config.crops, config.train
    with torch.device("meta"):
        model = META_ARCHS.get(config.meta_arch)(config)
    n_parameters = sum(p.numel() for p in model.student.parameters())
    images = train.shards * train.batch_size_per_shard
    local = crops.local_crops_number * crops.local_crops_size**2
    pixels = images * (2 * crops.global_crops_size**2 + local)
    slow = train.compile or config.data.num_workers > 1 or (train.threads or 1) > 16
    return 20 * n_parameters < LARGEST and pixels < 200_000 and not slow


def attempt(argv: list[str], capsys: pytest.CaptureFixture[str]) -> bool:
    """Run a command; return whether it was accepted. Anything but a sentence or success fails."""
    capsys.readouterr()
    command = annotated(argv)
    try:
        status = main(argv)
    except BaseException as error:
        pytest.fail(f"{command} ended in {type(error).__name__}: {error}", pytrace=True)
    said = "".join(
        line
        for line in capsys.readouterr().err.splitlines(keepends=True)
        if not line.startswith("poa: warning: ")
    )
    if status == 0:
        return True
    assert status == 2, command
    assert said.startswith("poa: "), (command, said)
    assert said.count("\n") == 1, (command, said)
    assert said.endswith(".\n"), (command, said)
    assert "Traceback" not in said, (command, said)
    return False


def try_overrides(
    draws: Draws,
    file: Path,
    overrides: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs: list[Config] = []

    def construct_one(config: Config) -> loop.Outcome:
        configs.append(config)
        return construct(config)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", construct_one)
        if not attempt(["train", str(file), *overrides], capsys):
            return
    draws.accepted += 1
    [config] = configs
    if draws.accepted < TRAINS_EVERY * (draws.trained + 1) or not is_small(config):
        return
    draws.trained += 1
    run = Path(config.output_dir)
    if attempt(["train", str(file), *overrides, "train.accept_changes=true"], capsys):
        load_config(run / "config.yaml")


def test_each_key(
    draws: Draws, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(max(COUNT, len(draws.keys))):
        key = draws.keys[number % len(draws.keys)]
        word = f"{key.name}={draw(key, draws.rng)}"
        try_overrides(draws, draws.file_for(key, number), [word], capsys, monkeypatch)
    assert draws.accepted > 20
    assert draws.trained > 0


def test_two_keys_at_once(
    draws: Draws, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(COUNT // 4):
        file = list(draws.files.values())[number % 4]
        usable = [
            key
            for key in draws.keys
            if not key.name.startswith("student.") or key.name.startswith(f"student.{file.stem}.")
        ]
        pair = draws.rng.sample(usable, 2)
        overrides = [f"{key.name}={draw(key, draws.rng)}" for key in pair]
        try_overrides(draws, file, overrides, capsys, monkeypatch)
