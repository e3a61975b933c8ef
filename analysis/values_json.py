"""Numbers and intervals as JSON values: what is not finite is null."""

from __future__ import annotations

import math
from collections.abc import Mapping

from analysis.results import Estimate, Interval


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def interval_json(interval: Interval | None) -> list[float | None] | None:
    """[lo, hi], an infinite end null."""
    return None if interval is None else [finite(interval.lo), finite(interval.hi)]


def intervals_json(intervals: Mapping[str, Interval] | None) -> dict[str, list[float | None] | None] | None:
    return None if intervals is None else {name: interval_json(interval) for name, interval in intervals.items()}


def estimate_json(estimate: Estimate | None) -> dict[str, float | list[float | None] | None] | None:
    """{"value": .., "ci95": [..]}; null where there is none."""
    return None if estimate is None else {"value": finite(estimate.value), "ci95": interval_json(estimate.ci95)}
