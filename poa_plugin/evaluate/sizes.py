"""Sizes as people write them: 30M, 5G, 500k."""

from __future__ import annotations

import math
import re

from poa_plugin.errors import UserError

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "t": 1_000_000_000_000}


def parse_size(text: str, what: str) -> int:
    """Return the number that a text such as `30M`, `1.5G`, `500k` or `21674880` stands for.

    Args:
        text: a positive number and k, M, G or T, powers of a thousand, in either case.
        what: the option it was given to, for the message.

    Raises:
        UserError: it is no such text, or no positive number.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)\s*", text, re.IGNORECASE)
    number = round(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if number < 1:
        raise UserError(
            f"{what} is '{text}': write a positive number such as 21674880, 500k, 30M or 1.5G."
        )
    return number


def parse_milliseconds(text: str, what: str) -> float:
    """Return the number that a text such as `12` or `0.5` stands for.

    Raises:
        UserError: it is no positive number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{what} is '{text}': write a positive number of milliseconds such as 12.")
    return number
