"""What was asked of a fit before it is believed: outliers, learning rates, noise, structure in the residuals, extrapolation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from analysis.results.basic import Interval

Axis = Literal["n_params", "n_tokens", "tokens_per_param"]
#: What residuals are tested along, and what it is called in words and pictures.
AXIS_LABELS: dict[Axis, str] = {"n_params": "N", "n_tokens": "D", "tokens_per_param": "D/N"}


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A run that lies further off the law than the rule allows."""

    run_id: str
    name: str
    row: int | None
    """Row number in a file, from 1 below the header; None for runs from folders and MLflow."""
    log_residual: float
    """log predicted - log measured, by the law that was fitted in the end."""
    robust_sds: float
    """The residual's size over the robust sd."""


@dataclass(frozen=True, kw_only=True)
class OffRate:
    """Runs of one size whose learning rate was not near the best, or is not known to be."""

    n_params: float
    n_runs: int
    peak_lr: float
    """Geometric mean over the size's fitted runs."""
    tuned_lr: float | None
    """The rate that tuning points to at this size; None where only the edge of those tried is known."""
    reason: str
    """In words."""


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """Noise between seeds by size: sd of log loss = sd (N / n_params)^-exponent within `sizes`, the nearest one's beyond."""

    sd: float
    n_params: float
    """The reference size, at which a run weighs 1: the geometric mean over the fitted runs, or the nearest within `sizes`."""
    exponent: float
    degrees_of_freedom: int
    sizes: Interval
    """Smallest and largest size with repeated seeds."""


@dataclass(frozen=True, kw_only=True)
class AxisStructure:
    """Whether the residuals of a fit still go with one quantity."""

    axis: Axis
    p_value: float | None
    """Of the residuals being without structure along this axis; None where the law itself takes up all that could show."""
    p_holm: float | None
    """Corrected for asking about three axes (Holm 1979)."""
    structured: bool
    """`p_holm` is below the record's level."""
    at: tuple[float, ...]
    """Geometric means of the axis over up to five bins of about equally many runs."""
    miss: tuple[float, ...]
    """Median log residual (predicted over measured) in each bin."""
    shape: str
    """In words: where the law lies above the runs and where below."""


@dataclass(frozen=True, kw_only=True)
class ResidualStructure:
    """Test for structure that a law left in its residuals, along log N, log D and log D/N."""

    axes: tuple[AxisStructure, ...]
    level: float
    method: str
    """One sentence: what was tested, and how runs that share a trunk were treated."""

    @property
    def structured(self) -> bool:
        return any(axis.structured for axis in self.axes)


@dataclass(frozen=True, kw_only=True)
class WindowForecast:
    """One run predicted by a law that was fitted to smaller runs only."""

    run_id: str
    name: str
    window: int
    """Index in `Extrapolation.windows`."""
    n_params: float
    n_tokens: float
    distance: float
    """The run's N D over the largest N D of the window (of a `RatioWindow`, see there)."""
    log_error: float
    """log predicted - log measured."""
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Window:
    """The runs up to some training compute, and what a law fitted to them predicts of the larger ones."""

    max_compute: float
    """Largest N D in the window, in parameters times tokens."""
    n_runs: int
    n_predicted: int
    rms_log_error: float | None
    """Over the runs predicted; None for a window that was skipped."""
    skipped: str | None
    """Why this window can't be fitted; None where it was."""


@dataclass(frozen=True, kw_only=True)
class RatioWindow:
    """The runs on one side of a ratio D/N, and what a law fitted to them predicts of those on the other."""

    limit: float
    """The largest D/N in the window, or the smallest."""
    predicts: Literal["above", "below"]
    """Which runs are predicted: those of more tokens a parameter than the limit, or of fewer."""
    n_runs: int
    n_predicted: int
    rms_log_error: float | None
    """Over the runs predicted; None for a window that was skipped."""
    skipped: str | None
    """Why this window can't be fitted; None where it was."""


@dataclass(frozen=True, kw_only=True)
class RatioExtrapolation:
    """How far off laws fitted to runs of some ratios D/N were on runs of others, at whatever compute."""

    windows: tuple[RatioWindow, ...]
    forecasts: tuple[WindowForecast, ...]
    """Their `distance` is one of ratios: the run's D/N over the window's limit, or the limit over it."""
    growth: float
    """Sd of log error that every factor e of D/N adds, in quadrature."""
    max_distance: float
    """Largest factor of D/N that was tried."""


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """How far off laws fitted to the smaller runs were on the larger ones, by distance in compute and in D/N."""

    windows: tuple[Window, ...]
    forecasts: tuple[WindowForecast, ...]
    residual_sd: float
    """Of the law fitted to all runs: the error at distance 1, and never less beyond."""
    growth: float
    """Sd of log error that every factor e of compute adds, in quadrature."""
    max_distance: float
    """Largest distance that was tried: beyond it the growth is itself extrapolated."""
    ratio: RatioExtrapolation | None = None
    """The same by D/N; None where no window of ratios can be fitted."""

    def log_error_sd(self, distance: float, ratio_distance: float = 1.0) -> float:
        """Sd of log error when predicting at `distance` times the largest fitted N D, and at a D/N that is outside the fitted
        ones by the factor `ratio_distance`."""
        by_ratio = 0.0 if self.ratio is None else self.ratio.growth * math.log(max(1.0, ratio_distance))
        return math.hypot(self.residual_sd, self.growth * math.log(max(1.0, distance)), by_ratio)


@dataclass(frozen=True, kw_only=True)
class LossForecast:
    """A loss that the law predicts, with the error of extrapolating to it."""

    n_params: float
    n_tokens: float
    loss: float
    ci95: Interval
    """The bootstrap's interval, widened in quadrature by the error of extrapolating."""
    distance: float
    """N D over the largest fitted N D; below 1 inside."""
    ratio_distance: float
    """The factor by which D/N is outside the fitted ones; 1 inside."""
    note: str | None
    """What the interval leaves out; None where nothing."""
