"""A law fitted to a table of runs: parameters, intervals, evidence, held-out error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from analysis.results.basic import Array, Excluded, Interval
from analysis.results.checks import NoiseModel, OffRate, Outlier


@dataclass(frozen=True, kw_only=True)
class FittedPoint:
    """One run beside the law: fitted, or held out and predicted."""

    run_id: str
    name: str
    n_params: float
    n_tokens: float
    loss: float
    predicted: float
    log_residual: float
    """log predicted - log measured: the r of the objective."""
    held_out: bool
    unique_tokens: float = math.inf
    """Distinct tokens that the run saw; infinite where nothing repeats."""
    group: str = ""
    """The trunk or seed group that it shares randomness with; "" where nothing groups it."""
    weight: float = 1.0
    """Its weight in the objective."""
    noise_scale: float = 1.0
    """The noise of its loss over that of the typical run, by its weight or by the noise model."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Prediction of runs that the fit never saw. Relative errors are |predicted - measured| / measured."""

    n: int
    mean_abs_rel_error: float
    max_abs_rel_error: float


@dataclass(frozen=True, kw_only=True)
class Exponents:
    """N_opt ~ C^n_opt and D_opt ~ C^d_opt when compute goes as N D."""

    n_opt: float
    d_opt: float
    ci95: dict[str, Interval] | None
    """By `n_opt` and `d_opt`; None without a bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Evidence that the optimum is one: what `success=True` would not show."""

    gradient_norm: float
    """Norm of the objective's gradient over delta^2 with respect to the solver's scaled parameters, free directions only."""
    bound_hits: tuple[str, ...]
    """Parameters that ended on a bound (an amplitude at 0, an exponent at its limit)."""
    n_starts: int
    n_optima: int
    """Distinct optima that the starts ended in."""
    next_best_gap: float | None
    """Relative excess of the second-best optimum's objective; None when all starts agree."""
    condition_number: float
    """Of the Gauss-Newton matrix in scaled parameters at the optimum: how well the design tells the parameters apart."""
    unfelt: tuple[str, ...] = ()
    """Parameters on which no run's loss depends at the optimum. Nothing is known of them, and they have no interval."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How the intervals came about."""

    method: Literal["group", "parametric", "run", "residual"]
    """`group`: the residuals of whole trunks or seed groups redrawn; `parametric`: the law plus noise; `run`: single runs drawn
    with replacement; `residual`: the law plus its own residuals in another order."""
    draws: int
    seed: int
    groups: int
    noise_sd: float | None
    """Sd of log loss that a parametric bootstrap adds; None otherwise."""
    reason: str
    """One sentence: why this method, and where the noise was taken from."""


@dataclass(frozen=True, kw_only=True)
class FittedRange:
    """What the fitted runs span: outside it a prediction is an extrapolation."""

    n_params: Interval
    n_tokens: Interval
    tokens_per_param: Interval
    n_times_d: Interval
    """N D, which training compute goes by: the largest N and the largest D lie in no run together."""
    loss: Interval
    """Measured losses."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law fitted to a table of runs, with its evidence and its doubts."""

    law: str
    """Name in `analysis.laws`."""
    objective: str
    """huber_log, lad_log, lsq_log or lsq; always the SUM over runs."""
    delta: float
    """Huber's threshold on the log residual; unused by the other objectives."""
    counting: str
    """The RunTable column that N is: n_params, n_params_non_embedding or n_params_matmul."""
    n_runs: int
    n_sizes: int
    params: dict[str, float]
    ci95: dict[str, Interval] | None
    """Percentile intervals by parameter, less those that no run feels; None without a bootstrap."""
    objective_value: float
    exponents: Exponents
    residual_sd: float
    """Sd of log residuals over the fitted runs, with the law's parameters taken off the degrees of freedom; of a run of
    typical noise, where weights say that runs differ in it."""
    convergence: Convergence
    resampling: Resampling | None
    draws_KP: Array | None
    """The bootstrap's parameters, columns in the order of `params`; None without a bootstrap."""
    held_out: HeldOut | None
    """None when no run was held out."""
    points: tuple[FittedPoint, ...]
    """Every fitted and every held-out run, in table order: the residual plots draw from these."""
    fitted_range: FittedRange
    excluded: tuple[Excluded, ...]
    """Runs that were left out, dropped outliers among them."""
    warnings: tuple[str, ...]
    weights: Literal["column", "noise"] = "column"
    """Where the weights came from: the table's column, or the noise model."""
    noise_model: NoiseModel | None = None
    """None with weights from the column."""
    outlier_rule: str = ""
    """The rule by which runs are outliers, in words."""
    outliers: tuple[Outlier, ...] = ()
    """Fitted runs that lie too far off by `outlier_rule`. They stay in the fit."""
    dropped: tuple[Outlier, ...] = ()
    """Runs that `drop_outliers` took out of the fit; empty unless it was asked for."""
    off_rate: tuple[OffRate, ...] = ()
    """Sizes whose learning rate sits far from the tuned one, or whose best one is the edge of those tried."""
    data_digest: str = ""
    """SHA-256 of what was fitted and held out (N, D, loss, weight, unique tokens) and of the counting rule; order and names
    of the runs don't count."""
