"""The house style of every figure: colours, units and ticks. No drawing here; both renderers read it.

Sizes run from light (small) to dark (large) by log N on viridis, budgets likewise on cividis; both maps are safe for
colour-blind readers and are trimmed where they would vanish on white. Accents are from Okabe and Ito's palette.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

INK = "#222222"
GREY = "#767676"
ACCENT = "#d55e00"
"""Vermilion: what the picture is about, where the sizes have taken the sequential map."""
SECOND = "#0072b2"
"""Blue: a second curve of the same standing as the accent."""
THIRD = "#00795a"
"""Bluish green, a little darker than the palette's: a third curve of that standing."""
SHADE = "#ededed"
"""Ground of a region that no run covers."""

#: Part of each map that keeps a contrast of at least 2.5 to 1 on white, from its light end to its dark end.
_TRIM = {"viridis": (0.66, 0.0), "cividis": (0.68, 0.0)}

Unit = Literal["plain", "count", "power", "percent", "seconds"]
"""How numbers are written: as they are, with k M B T, as m x 10^e, as a percentage of a ratio, or as a time with its prefix."""

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"), (1e-15, "fs"))


def sequence_colours(values: Iterable[float], *, colour_map: Literal["viridis", "cividis"]) -> dict[float, str]:
    """A colour for each distinct positive value, light to dark in the logarithm."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    distinct = sorted(set(values))
    if not distinct:
        return {}
    light, dark = _TRIM[colour_map]
    span = math.log(distinct[-1] / distinct[0]) or 1.0
    shares = [math.log(value / distinct[0]) / span for value in distinct]
    return {v: to_hex(colormaps[colour_map](light + (dark - light) * s)) for v, s in zip(distinct, shares, strict=True)}


def size_colours(sizes: Iterable[float]) -> dict[float, str]:
    return sequence_colours(sizes, colour_map="viridis")


def budget_colours(budgets: Iterable[float]) -> dict[float, str]:
    return sequence_colours(budgets, colour_map="cividis")


def format_number(value: float, unit: Unit, *, digits: int = 3) -> str:
    """A number for a reader, to `digits` significant digits: 39.4k, 1.2 x 10^12 with real superscripts, 2.75, 31 %."""
    if not math.isfinite(value):
        return "–"
    magnitude = abs(float(f"{value:.{digits - 1}e}"))
    if unit == "percent":
        return f"{_plain(100 * value, digits)} %"
    if unit == "power":
        return _power(value, digits)
    if unit == "seconds":
        scale, suffix = next(
            (pair for pair in _SECONDS if magnitude >= pair[0]), _SECONDS[-1] if value else _SECONDS[0]
        )
        return f"{_plain(value / scale, digits)} {suffix}"
    if unit == "count":
        if magnitude >= 1e15:
            return _power(value, digits)
        for scale, suffix in _SUFFIXES:
            if magnitude >= scale:
                return _plain(value / scale, digits) + suffix
    return _plain(value, digits)


def _plain(value: float, digits: int) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return _power(value, digits)
    rounded = float(f"{value:.{digits - 1}e}")
    whole = abs(rounded) >= 10 ** (digits - 1)
    text = f"{rounded:.{digits}g}" if not whole else f"{rounded:,.0f}" if abs(rounded) >= 10_000 else f"{rounded:.0f}"
    return text.replace("-", "−")


def _power(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa).replace("-", "−")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return power if mantissa == "1" else f"{mantissa}×{power}"


def ticks(low: float, high: float, *, log: bool, most: int = 7) -> list[float]:
    """Round positions inside [low, high]: decades and their 1-2-5 parts on a log axis, even steps where it is short."""
    if log and 0 < low < high:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        finest = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7)) if high / low < 8 else ()
        for parts in (*finest, (1, 2, 5), (1, 3), (1,)):
            found = [p * 10.0**e for e in range(first, last + 1) for p in parts if low <= p * 10.0**e <= high]
            if 4 <= len(found) <= most:
                return [float(f"{place:.12g}") for place in found]
        if high / low > 100:
            stride = max(1, math.ceil((last - first) / most))
            return [10.0**e for e in range(first, last + 1) if low <= 10.0**e <= high and e % stride == 0]
    return _even_ticks(low, high, most)


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(part * scale for part in (1, 2, 2.5, 5, 10) if part * scale >= rough)
    return [float(f"{k * step:.12g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def padded(low: float, high: float, *, log: bool, margin: float = 0.04) -> tuple[float, float]:
    """Limits that hold [low, high] with a margin on both sides, of the axis's own scale."""
    if log:
        a, b = np.log10(low), np.log10(high)
        pad = margin * (b - a) if b > a else 0.1
        return float(10 ** (a - pad)), float(10 ** (b + pad))
    pad = margin * (high - low) if high > low else (abs(high) or 1.0) * 0.1
    return low - pad, high + pad
