"""Extracted networks of all families, and what they are exported to, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.export.exporter import export
from poa_plugin.extraction.network import write_network
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES
from tests.extraction.test_network import WIDE

NETWORKS = {
    "vit": ("vit",),
    "vit without layer scale": ("vit", "student.vit.layerscale=null"),
    "vit without biases": ("vit", "student.vit.ffn_bias=false"),
    "swin": ("swin", *WIDE["swin"], "student.swin.min_depth=4"),
    "swin alternating": ("swin", *WIDE["swin"]),
    "swin padded": ("swin",),
    "resnet": ("resnet", *WIDE["resnet"]),
}
Find = Callable[..., Path]


def write(folder: Path, family: str, *words: str) -> Path:
    """Write the smallest member of a family's small space."""
    config = default_config([*FAMILIES[family], *words])
    backbone = randomize(build_backbone(config)).eval()
    origin = {"branch": "teacher", "step": 3}
    return write_network(folder, family, backbone, backbone.space["smallest"], origin)


@pytest.fixture(scope="package")
def network(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Return a function that gives the folder of one of NETWORKS, written once."""
    root, written = tmp_path_factory.mktemp("networks"), {}

    def find(name: str) -> Path:
        if name not in written:
            written[name] = write(root / name.replace(" ", "_"), *NETWORKS[name])
        return written[name]

    return find


@pytest.fixture(scope="package")
def exported(network: Find, tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Return a function that exports one of NETWORKS once to each format, and gives the folder."""
    root, written = tmp_path_factory.mktemp("exported"), {}

    def find(name: str, format_name: str) -> Path:
        if (name, format_name) not in written:
            target = root / f"{name.replace(' ', '_')}_{format_name}"
            export(network(name), format_name, target, license="cc-by-4.0")
            written[name, format_name] = target
        return written[name, format_name]

    return find
