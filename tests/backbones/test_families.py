"""The laws that hold for every family of backbones, and that they notice a backbone that breaks them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.registry import BACKBONES
from poa_plugin.testing import LAWS
from tests.conftest import FAMILIES

DROP_PATH = {"vit": ["student.vit.drop_path_rate=0.3"], "swin": ["student.swin.drop_path_rate=0.3"]}


def test_every_registered_family_is_tested() -> None:
    assert set(BACKBONES.names()) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("law", LAWS)
def test_law(law: Callable[[Config], None], family: str) -> None:
    law(default_config([*FAMILIES[family], *DROP_PATH.get(family, [])]))
