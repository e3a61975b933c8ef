"""Pieces that every result is made of: intervals, bands and excluded runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A closed interval; 95 % where nothing else is said. `hi` may be infinite."""

    lo: float
    hi: float

    def __contains__(self, value: float) -> bool:
        return self.lo <= value <= self.hi


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A run that was left out, and why."""

    row: int | None
    """Row number in a CSV or Parquet, counted from 1 below the header; None for runs from folders and MLflow."""
    run_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve with its 95 % band, on a grid of `x`. `lo` and `hi` are NaN where there is no interval."""

    x_G: Array
    mid_G: Array
    lo_G: Array
    hi_G: Array
