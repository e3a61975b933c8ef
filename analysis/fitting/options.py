"""What a caller may ask of `fit`: every analysis that fits a law takes these by name and hands them on unread."""

from __future__ import annotations

from typing import Final, TypedDict


class FitOptions(TypedDict, total=False):
    """The options of `analysis.fitting.fit.fit`, which says what each means."""

    law: str
    objective: str
    delta: float
    counting: str
    weights: str
    bootstrap: int
    resampling: str
    seed: int
    drop_outliers: bool
    drop_off_rate: bool


DEFAULTS: Final[FitOptions] = {
    "law": "chinchilla",
    "objective": "huber_log",
    "delta": 1e-3,
    "counting": "n_params",
    "weights": "column",
    "bootstrap": 1000,
    "resampling": "auto",
    "seed": 0,
    "drop_outliers": False,
    "drop_off_rate": False,
}
"""The only place where they stand."""


def complete(options: FitOptions) -> FitOptions:
    """`options`, with the defaults where they name none."""
    return {**DEFAULTS, **options}
