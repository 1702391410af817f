"""Kubernetes quantities (`500m`, `2Gi`) as exact numbers, and back in the one form the API server stores."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_BINARY: Final = {f"{prefix}i": Decimal(1024**power) for power, prefix in enumerate("KMGT", start=1)}
_DECIMAL: Final = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
}
_MOST: Final = 2**63 - 1
_FORM: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")


def number(quantity: str) -> Decimal:
    """The exact value: `number("1.5Gi") == 1610612736`. Raises ValueError for any other text."""
    match = _FORM.fullmatch(quantity)
    factor = match and {**_DECIMAL, **_BINARY}.get(match[2])
    if match is None or factor is None:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity such as 500m, 2 or 2Gi")
    return Decimal(match[1]) * factor


def whole_bytes(quantity: str) -> int:
    """Bytes, rounded down."""
    return int(number(quantity))


def canonical(quantity: str) -> str:
    """The form in which the API server gives the quantity back: the largest suffix that leaves a whole number.

    Desired and live objects are compared as text, so the plan writes only this form (`1000m` is stored as `1`). What is
    finer than a thousandth, or than one where the suffix is binary, is rounded up; the largest is what the API server
    can count.
    """
    thousandths = min(_ceil(number(quantity) * 1000), _MOST * 1000)
    # Below one Ki the API server has no binary suffix to use and falls back to the decimal ones.
    binary = quantity.endswith("i") and thousandths >= 1024 * 1000
    if binary:
        thousandths = -(-thousandths // 1000) * 1000
    suffixes = {**_BINARY, "": Decimal(1)} if binary else _DECIMAL
    # Whole numbers from here on: a Decimal remainder has no more than 28 digits.
    for suffix, factor in sorted(suffixes.items(), key=lambda item: -item[1]):
        count, rest = divmod(thousandths, int(factor * 1000))
        if count and not rest:
            return f"{count}{suffix}"
    return "0"


def _ceil(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))
