"""Sizes as people write them: 30M, 5G, 500k."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from poa_plugin.errors import UserError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d{1,3}))?"
LARGEST = 10**18
"""No network and no machine has as many parameters or bytes."""


def parse_size(text: str, what: str) -> int:
    """Return the number that a text such as `30M`, `1.5G`, `30 M`, `1e6`, `500k` or `21674880` stands for.

    Args:
        text: a positive number and k, M, G or T, powers of a thousand, in either case.
        what: the option it was given to, for the message.

    Raises:
        UserError: it is no such text, no positive number, or larger than 10 ** 18.
    """
    match = re.fullmatch(rf"\s*{NUMBER}\s*([kmgt]?)\s*", text, re.IGNORECASE)
    number = Decimal(0)
    if match:
        number = Decimal(f"{match[1]}e{match[2] or 0}") * UNITS[match[3].lower()]
    if not 1 <= number <= LARGEST:
        raise UserError(
            f"{what} is '{text}': write a positive number such as 21674880, 500k, 30M or 1.5G"
            f"{', at most 1e18' if number > LARGEST else ''}."
        )
    return int(number.to_integral_value())


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
