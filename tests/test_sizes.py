"""Sizes as people write them, and what is none."""

from __future__ import annotations

import pytest

from poa_plugin.errors import UserError
from poa_plugin.sizes import parse_size, short


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e6", 10**6),
        ("1.5E3", 1500),
        ("30 M", 30 * 10**6),
        ("30m", 30 * 10**6),
        ("1e18", 10**18),
        ("123456789012345678", 123_456_789_012_345_678),
    ],
)
def test_numbers_with_exponents_and_spaces(text: str, number: int) -> None:
    assert parse_size(text, "--memory") == number


@pytest.mark.parametrize(
    "text", ["1e30", "1e999", "9" * 400, "9" * 400 + "T", "-1", "1e-3", "1e6e6", "e6", "1e", "-inf"]
)
def test_numbers_that_no_machine_has_are_sentences(text: str) -> None:
    with pytest.raises(UserError, match=r"--memory is '.*': write a positive number such as"):
        parse_size(text, "--memory")


@pytest.mark.parametrize(
    ("number", "text"), [(21_674_880, "21.7M"), (4_607_954_304, "4.61G"), (512, "512"), (0, "-")]
)
def test_short_numbers(number: int, text: str) -> None:
    assert short(number) == text
