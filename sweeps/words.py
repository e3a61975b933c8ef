"""Numbers and times as a person reads them."""

from __future__ import annotations


def human(value: float) -> str:
    """Three digits and a unit: 23.1k, 1.34M, 6.74G."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T" if value < 999.5 else f"{value:.0f}T"


def duration(seconds: float) -> str:
    """Two units at most: 4.2 s, 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute} min"
    return f"{minutes} min {second} s" if minutes else f"{second} s"


#: A message that gives a command names at most so many runs in it.
NAMED_IN_A_COMMAND = 4


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `1,200 runs`: of a noun that takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
