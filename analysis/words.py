"""Numbers as people say them, for sentences: 39k parameters, 4.3M tokens, 1.6e12 FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.results import Interval

#: Ratios nearer to 1 than this are said in per cent.
NEAR = 0.1
#: From here on an exponent says more than a row of digits.
MOST_DIGITS = 1e16
SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """Parameters or tokens to two or three digits: 39k, 132k, 4.3M, 1.8T."""
    if not math.isfinite(value):
        return "infinitely many"
    if value >= MOST_DIGITS:
        return _exponent(value)
    for scale, suffix in SUFFIXES:
        # 999.6k reads as 1M.
        if value >= scale * 0.9995:
            scaled = value / scale
            return f"{scaled:.1f}{suffix}" if scaled < 9.95 else f"{scaled:,.0f}{suffix}"
    return number(value)


def number(value: float) -> str:
    """Three digits without an exponent where that stays short."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.2g}"


def flops(value: float) -> str:
    """1.6e12 FLOPs, without the plus sign and padding of Python's exponents."""
    return f"{_exponent(value)} FLOPs"


def _exponent(value: float) -> str:
    mantissa, sign, exponent = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if sign else mantissa


def times(value: float) -> str:
    """A ratio: 1.6x, 12x."""
    return f"{value:.2g}x" if value < 10 else f"{value:,.0f}x"


def ratio_of(ratio: float, what: str) -> str:
    """A ratio near 1 in per cent, which "1x" would hide: 4 % more FLOPs, 2.5x the FLOPs."""
    if abs(ratio - 1) > NEAR:
        return f"{times(ratio)} the {what}"
    percent = round(100 * abs(ratio - 1))
    if not percent:
        return f"the same {what}"
    fewer = "fewer" if what.endswith("s") else "less"
    return f"{percent} % {'more' if ratio > 1 else fewer} {what}"


def as_fast(ratio: float) -> str:
    """A ratio of speeds: 2.7x as fast, 4 % faster, equally fast."""
    if abs(ratio - 1) > NEAR:
        return f"{times(ratio)} as fast"
    percent = round(100 * abs(ratio - 1))
    return f"{percent} % {'faster' if ratio > 1 else 'slower'}" if percent else "equally fast"


def seconds(value: float, unit: str) -> str:
    """A cost in `unit`, time in the unit that reads best."""
    if unit.endswith("-seconds"):
        what = unit.removesuffix("-seconds")
        for scale, name in ((3600.0, "hours"), (60.0, "minutes")):
            if value >= 2 * scale:
                return f"{number(value / scale)} {what}-{name}"
        return f"{number(value)} {unit}"
    return flops(value) if unit == "FLOPs" else f"{number(value)} {unit}"


def brackets(interval: Interval | None, show: Callable[[float], str]) -> str:
    """A space and the interval in brackets, to stand behind its value; nothing where there is none."""
    if interval is None:
        return ""
    lo, hi = ("∞" if end == math.inf else show(end) for end in (interval.lo, interval.hi))
    return f" [{lo}, {hi}]"
