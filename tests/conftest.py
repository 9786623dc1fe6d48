"""Small configurations and batches that tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from poa_plugin import registry
from poa_plugin.backbones import ElasticBackbone
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.registry import DATASETS
from poa_plugin.testing import random_backbone

collect_ignore = ["third_party"]
"""Packages that are tested as they are installed."""
COMMON = [
    "crops.local_crops_size=32",
    "crops.local_crops_number=2",
    "dino.head_n_prototypes=[16,24]",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
    "ibot.start_epoch=0",
    "train.shards=1",
    "train.batch_size_per_shard=3",
    "train.device=cpu",
    "data.num_workers=0",
]
SMALL = [
    "student.arch=vit",
    "student.vit.min_width=24",
    "student.vit.max_width=48",
    "student.vit.width_step=8",
    "student.vit.min_depth=2",
    "student.vit.max_depth=4",
    "student.vit.head_dim=8",
    "student.vit.patch_size=8",
    "student.vit.layerscale=0.1",
    "student.vit.drop_path_rate=0",
    "crops.global_crops_size=48",
    *COMMON,
]
FAMILIES = {
    "vit": SMALL,
    "swin": [
        "student.arch=swin",
        "student.swin.min_width=8",
        "student.swin.max_width=16",
        "student.swin.width_step=4",
        "student.swin.min_depth=1",
        "student.swin.max_depths=[1,2,4,1]",
        "student.swin.head_dim=4",
        "student.swin.window_size=3",
        "student.swin.drop_path_rate=0",
        "crops.global_crops_size=64",
        *COMMON,
    ],
    "resnet": [
        "student.arch=resnet",
        "student.resnet.min_width=8",
        "student.resnet.max_width=16",
        "student.resnet.width_step=4",
        "student.resnet.min_depths=[1,1,2,1]",
        "student.resnet.max_depths=[1,2,4,1]",
        "student.resnet.stem_width=8",
        "student.resnet.out_width=32",
        "student.resnet.groups=4",
        "crops.global_crops_size=64",
        *COMMON,
    ],
}
"""Small configurations of every family."""


class Noise:
    """Images of colored noise, a function of their index."""

    labels: list[int] | None = None
    classes: list[str] = []  # noqa: RUF012

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def image(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 60, 60), generator=generator, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return str(index)


class Blobs(Noise):
    """Twelve images of two classes, registered as `blobs`."""

    classes = ["a", "b"]  # noqa: RUF012

    def __init__(self, path: str | None, split: str, image_size: int | None) -> None:
        super().__init__(12)
        self.labels = [i % 2 for i in range(12)]


if "blobs" not in DATASETS:
    DATASETS.register_as("blobs")(Blobs)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _plugins_of_one_test() -> Iterator[None]:
    """Forget what a test's own package has registered: a run of another test would record its keys."""
    registries = [x for x in vars(registry).values() if isinstance(x, registry.Registry)]
    before, plugins = [dict(names) for names in registries], list(registry.PLUGINS)
    yield
    registry.PLUGINS[:] = plugins
    for names, earlier in zip(registries, before, strict=True):
        for name, item in list(names):
            module = str(getattr(item, "__module__", "poa_plugin"))
            if name not in earlier and module.split(".")[0] not in ("poa_plugin", "tests"):
                del names._obj_map[name]
                sys.modules.pop(module, None)


Make = Callable[..., Config]


@pytest.fixture
def small_config() -> Make:
    """Return a function that builds a configuration of seconds, with overrides."""
    return lambda *overrides: default_config([*SMALL, *overrides])


@pytest.fixture
def make(small_config: Make, tmp_path: Path) -> Make:
    """Return a function that builds the configuration of a run of seconds, with overrides."""

    def config(*overrides: str) -> Config:
        return small_config(
            "data.dataset=blobs",
            "train.OFFICIAL_EPOCH_LENGTH=3",
            "train.checkpoint_period=2",
            "train.log_period=2",
            "optim.epochs=2",
            "optim.warmup_epochs=1",
            "student.vit.drop_path_rate=0.2",
            f"output_dir={tmp_path / 'run'}",
            *overrides,
        )

    return config


@pytest.fixture
def backbone(small_config: Callable[..., Config]) -> ElasticBackbone:
    """A small elastic backbone in evaluation mode, its weights far from their small initial ones."""
    return random_backbone(small_config())


@pytest.fixture
def golden_folder() -> Path:
    """The folder of golden numbers; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}")
    return folder


@pytest.fixture
def demo_overrides(tmp_path: Path) -> list[str]:
    """Words for a quick training on a few images written here."""
    from PIL import Image

    folder = tmp_path / "images/x"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.effect_noise((40, 40), 10 + i).save(folder / f"{i}.png")
    config = Path(__file__).resolve().parents[1] / "configs/ssl/demo_vit.yaml"
    return [
        str(config),
        "data.dataset=image_folder",
        f"data.path={tmp_path / 'images'}",
        "train.batch_size_per_shard=4",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "train.log_period=1",
        "train.threads=1",
        "optim.epochs=100",
        "optim.warmup_epochs=1",
    ]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on two kinds of pictures, with pictures to test on; not to be changed."""
    from PIL import Image

    from poa_plugin.cli import main

    root = tmp_path_factory.mktemp("finished")
    for split, size in (("train", 8), ("val", 4)):
        for kind in range(2):
            folder = root / "images" / split / f"kind{kind}"
            folder.mkdir(parents=True)
            for i in range(size):
                Image.effect_noise((50, 50), 5 + 60 * kind + i).save(folder / f"{i}.png")
    overrides = [
        "data.dataset=image_folder",
        f"data.path={root / 'images'}",
        f"output_dir={root / 'run'}",
        "train.batch_size_per_shard=4",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "train.threads=1",
        "optim.epochs=2",
        "optim.warmup_epochs=1",
    ]
    config = Path(__file__).resolve().parents[1] / "configs/ssl/demo_vit.yaml"
    assert main(["train", str(config), *overrides]) == 0
    return root / "run"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that mounts a small disk of some bytes, held in memory."""
    folder = tmp_path / "disk"

    def mount(size: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a disk in memory cannot be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
