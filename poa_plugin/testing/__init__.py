"""The laws that every elastic backbone keeps, for the tests of a package that brings one.

Each is a function of a configuration that raises an `AssertionError` where the backbone breaks it:

    @pytest.mark.parametrize("law", LAWS)
    def test_law(law):
        law(load_config("tiny.yaml", ["student.arch=mine"]))

The space should have three widths and three depths or more, and be small: the laws run its members on a CPU.
"""

from collections.abc import Callable

from poa_plugin.config.schema import Config
from poa_plugin.testing import extraction, forward, training
from poa_plugin.testing.extraction import check_extraction
from poa_plugin.testing.networks import (
    members_to_check,
    middle,
    random_backbone,
    random_batch,
    randomize,
)

__all__ = [
    "LAWS",
    "check_extraction",
    "members_to_check",
    "middle",
    "random_backbone",
    "random_batch",
    "randomize",
]

LAWS: tuple[Callable[[Config], None], ...] = (*extraction.LAWS, *forward.LAWS, *training.LAWS)
"""All laws. Their names say what holds."""
