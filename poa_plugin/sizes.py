"""Sizes as people write them: 30M, 5G, 500k, 1e6."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from poa_plugin.errors import UserError

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "t": 1_000_000_000_000}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
NUMBER = r"\s*((?:[0-9]+|[0-9]{1,3}(?:_[0-9]{3})+)(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?\s*"


LARGEST = 10**18
"""No network and no machine has as many parameters or bytes."""


def parse_size(text: str, what: str) -> int:
    """Return the number that a text such as `30M`, `1.5G`, `1e6` or `1_000_000` stands for.

    Args:
        text: a positive number and k, M, G or T, powers of a thousand, in either case, after a space or
            not; or an exponent in their place.
        what: the option it was given to, for the message.

    Raises:
        UserError: it is not such a text, or not a number from 1 to LARGEST.
    """
    return _parse(
        text,
        f"({'|'.join(UNITS)})",
        f"{what} is '{text}': write a positive number such as 21674880, 500k, 30M, 1.5G or 1e6.",
    )


def parse_bytes(text: str, what: str) -> int:
    """Return the bytes that a text such as `512M`, `4G`, `4GB`, `4GiB` or `4e9` stands for.

    k, M, G and T are powers of a thousand, with a `B` after them or not; Ki, Mi, Gi and Ti are powers
    of 1024.

    Raises:
        UserError: it is no such text, or no number from 1 to LARGEST.
    """
    units = "|".join([*filter(None, UNITS), *BINARY])
    return _parse(
        text,
        f"(?:({units}|)b?)",
        f"{what} is '{text}': write a positive number of bytes such as 512M, "
        f"4G, 4GB (1 G is 1000 M), 4GiB (1 Gi is 1024 Mi) or 4e9.",
    )


def parse_milliseconds(text: str, what: str) -> float:
    """Return the number that a text such as `12` or `0.5` stands for.

    Raises:
        UserError: it is not a positive number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{what} is '{text}': write a positive number of milliseconds such as 12.")
    return number


def short(number: int) -> str:
    """Return a count with three digits and a letter, such as 21.7M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number) if number else "-"


def _parse(text: str, units: str, message: str) -> int:
    match = re.fullmatch(NUMBER + units + r"\s*", text, re.IGNORECASE)
    if match is None or (match[2] and match[3]):
        raise UserError(message)
    if len(match[2] or "") > 5:
        raise UserError(message)
    number = Decimal(match[1] + (match[2] or "")) * (UNITS | BINARY)[match[3].lower()]
    if not 1 <= number <= LARGEST:
        raise UserError(f"{message[:-1]}, at most 1e18." if number > LARGEST else message)
    return int(number.to_integral_value())
