"""What is held against something else: counting rules, the three approaches, two tables of runs, forecasts and what came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.results.basic import Array, Band, Excluded, Interval
from analysis.results.fit import Exponents, Resampling
from analysis.results.measured import Isoflop


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    ci95: Interval | None
    """None where nothing was resampled."""


@dataclass(frozen=True, kw_only=True)
class CountConversion:
    """One count of N as a function of another, through a table's sizes: large = small + coefficient * small^exponent.

    Embeddings go with the width, so what the larger count adds is a power of the smaller (Pearce & Song 2024, arXiv 2406.12907,
    equation 5, with the exponent 1/3; here it is fitted).
    """

    from_rule: str
    to_rule: str
    small_rule: str
    """Which of the two is the smaller count at every size."""
    coefficient: float
    exponent: float
    from_G: Array
    to_G: Array
    """Both counts of the table's sizes, ascending: these are looked up, not converted."""
    max_rel_error: float
    """Of the form against the sizes; 0 where both counts are the same."""


@dataclass(frozen=True, kw_only=True)
class ConvertedLaw:
    """A law told in another count of N: the same form fitted to what the law predicts at its own runs."""

    law: str
    from_rule: str
    to_rule: str
    params: dict[str, float]
    """In `to_rule`."""
    exponents_before: Exponents
    """Of the law as it was fitted, in `from_rule`."""
    exponents: Exponents
    """In `to_rule`, of `params`."""
    refitted: Exponents | None
    """Of the law fitted anew to the runs' losses in `to_rule`; None where that was refused (`refused`)."""
    refused: str | None
    max_loss_error: float
    rms_loss_error: float
    """Relative difference between the two laws' losses at the fitted runs: what the form loses by the change of count."""
    max_count_error: float
    """Largest relative error of a converted count among the fitted runs; 0 where the table holds the count itself."""
    n_runs: int


@dataclass(frozen=True, kw_only=True)
class FlopsRuleChange:
    """Where one budget puts N_opt when compute is 6 N D and when it is the table's own count."""

    flops: float
    n_opt_6nd: float
    n_opt_exact: float
    d_opt_6nd: float
    d_opt_exact: float


@dataclass(frozen=True, kw_only=True)
class FlopsRule:
    """Plain 6 N D against the table's own FLOPs."""

    counting: str
    rule: str
    """The table's count as a function of N, in words."""
    sizes_G: Array
    exact_over_6nd_G: Array
    """The table's FLOPs over 6 N D, by size: how far C moves."""
    changes: tuple[FlopsRuleChange, ...]
    """How far the optimum at a budget moves."""


@dataclass(frozen=True, kw_only=True)
class EnvelopePoint:
    """One budget of approach 1: the size that is best there, by interpolation between its own runs."""

    flops: float
    n_params: float
    n_tokens: float
    loss: float
    edge: bool
    """The best is the smallest or the largest of the sizes that were trained near this budget, so a better one may lie
    outside: no evidence of an optimum, and no part of the power laws."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Approach 1: the lower envelope of loss against compute over sizes."""

    points: tuple[EnvelopePoint, ...]
    """By FLOPs, ascending."""
    n_sizes: int
    """Sizes on the envelope away from its edges."""


@dataclass(frozen=True, kw_only=True)
class Approach:
    """What one of Hoffmann et al.'s three approaches says at a target budget."""

    number: Literal[1, 2, 3]
    name: Literal["envelope", "isoflop", "surface"]
    counting: str
    n_runs: int
    n_opt_exponent: Estimate | None
    d_opt_exponent: Estimate | None
    n_opt: Estimate | None
    d_opt: Estimate | None
    loss: Estimate | None
    """At `Approaches.flops`."""
    params: dict[str, float]
    """Of approaches 1 and 2: coefficient and exponent of N_opt = k C^a and of D_opt; of approach 3 the law's own."""
    ci95: dict[str, Interval] | None
    objective: str
    objective_value: float
    resampling: Resampling | None
    absent: dict[str, str]
    """By field name: why a part is None; `all` where one reason takes every part, `ci95` and `loss_ci95` for intervals."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Approaches:
    """The three approaches on one table, side by side."""

    flops: float
    """The budget at which they are compared."""
    largest_flops: float
    """Of a fitted run."""
    counting: str
    flops_rule: str
    """How a token's FLOPs are counted, in words."""
    approaches: tuple[Approach, ...]
    """1, 2, 3."""
    envelope: Envelope | None
    isoflop: Isoflop | None
    n_opt_spread: float | None
    """Largest over smallest N_opt among the approaches that have one; None with fewer than two."""
    excluded: tuple[Excluded, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ComparedTable:
    """One side of a comparison."""

    source: str
    n_runs: int
    flops: Interval
    """Training compute of its fitted runs."""
    limit: Estimate
    """Loss at infinite compute, by its law."""
    exponent: Estimate
    """Of compute in the loss at the optimum: L = limit + amplitude C^-exponent."""
    excluded: tuple[Excluded, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two recipes or corpora as a compute multiplier: what A's compute is of B's at equal loss; above 1 B is better."""

    a: ComparedTable
    b: ComparedTable
    law: str
    objective: str
    counting: str
    flops_rule: str
    flops_G: Array
    """B's training compute, ascending."""
    named: bool
    """Whether these budgets, or losses, were asked for."""
    loss: Band
    """B's loss at its optimum over `flops_G`."""
    loss_a: Band
    """A's over the same compute."""
    multiplier: Band
    """Over `flops_G`; infinite where A never reaches B's loss."""
    inside_G: NDArray[np.bool_]
    """True where B was trained near that compute and A near that compute times the multiplier."""
    covered: Interval | None
    """The range of B's compute that both cover; None where they share none."""
    constant: Estimate
    """The one multiplier m that brings L_A(m C) nearest to L_B(C) over `covered` (over `flops_G` where nothing is)."""
    constant_loss_error: float
    """Largest relative loss error that this one multiplier leaves over the same range."""
    slope: Estimate
    """d log m / d log C over the same range: 0 where the multiplier is constant, above it where B's lead grows."""
    p_constant: float | None
    """Two-sided, from the resamples: how often a slope this far from 0 comes of noise; None without a bootstrap."""
    verdict: Literal["constant", "grows", "shrinks"]
    """What `p_constant` says at 5 %; `constant` also means that the runs can't tell."""
    headline: Estimate
    """The multiplier in a number: at the largest compute that was asked for, of what is covered if any is; where none was,
    `constant` where the verdict is so, otherwise the one at the largest covered compute."""
    headline_flops: float | None
    """Where the headline holds: None for the whole covered range."""
    paired: bool
    """Whether both were resampled together, run by run."""
    resampling: Resampling | None
    """How A's runs were resampled; B's likewise."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a frozen law says of a run before (or without) its loss."""

    run_id: str | None
    """None for a cell that the caller named."""
    name: str
    n_params: float
    """Under the law's counting rule."""
    n_tokens: float
    unique_tokens: float | None
    """None where it isn't known, or not asked: then nothing repeats."""
    kind: Literal["held_out", "unfinished", "cell"]
    known_loss: float | None
    """The loss that the table held already, of a held-out run or of the cell: predicted, but not before the fact."""
    loss: float
    ci95: Interval
    """Where a new run's loss lies (`fitting.extrapolation.forecast`): the law's own uncertainty, and the error of
    predicting at that distance, a run's scatter included."""
    quantiles: tuple[float, ...] | None
    """Of the law's draws alone, at `analysis.forecasts.freeze.QUANTILES`; None without a bootstrap."""
    distance: float
    """N D over the largest fitted N D."""
    ratio_distance: float
    """The factor by which D/N is outside the fitted ones; 1 inside."""
    note: str | None
    """What `ci95` leaves out; None where nothing."""


@dataclass(frozen=True, kw_only=True)
class FrozenRun:
    """A run that a frozen law was fitted to."""

    run_id: str
    n_params: float
    n_tokens: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A law and its forecasts as they were written down, with their hash."""

    path: str
    sha256: str
    frozen_at: str
    """UTC, ISO 8601: what the file claims. The hash proves only that nothing was changed since it was noted elsewhere."""
    source: str
    law: str
    params: dict[str, float]
    ci95: dict[str, Interval] | None
    counting: str
    objective: str
    resampling: str | None
    """How the draws came about, in words."""
    residual_sd: float
    data_digest: str
    forecasts: tuple[Forecast, ...]
    fitted: tuple[FrozenRun, ...]
    seen: tuple[FrozenRun, ...]
    """Finished runs that were in the table too but not fitted: outliers dropped, learning rates off. Never forecasts."""


@dataclass(frozen=True, kw_only=True)
class CheckedForecast:
    """A forecast beside what was measured."""

    run_id: str
    name: str
    n_params: float
    n_tokens: float
    predicted: float
    ci95: Interval
    kind: Literal["held_out", "unfinished", "cell"]
    measured: float
    rel_error: float
    """predicted / measured - 1."""
    inside: bool
    before_the_fact: bool
    """False for a held-out run whose loss was known when the law was frozen."""


@dataclass(frozen=True, kw_only=True)
class ForecastCheck:
    """Frozen forecasts held against runs that have finished."""

    frozen: Frozen
    source: str
    rows: tuple[CheckedForecast, ...]
    n: int
    """Finished runs of forecasts whose loss was not in the frozen law's table."""
    mean_abs_rel_error: float | None
    max_abs_rel_error: float | None
    coverage: float | None
    """Share of those inside their interval; None where there are none."""
    n_known: int
    """Held-out runs whose loss was known when the law was frozen: shown, but no test of foresight."""
    coverage_known: float | None
    pending: tuple[str, ...]
    """Names of forecasts without a finished run yet."""
    not_forecast: tuple[str, ...]
    """Names of finished runs that the frozen law was neither fitted to nor asked about."""
    fitted_runs: tuple[str, ...]
    """Names of the table's runs that were there, finished, when the law was frozen and not held out: never counted."""
    changed: tuple[str, ...]
    """Fitted runs that are gone or no longer have the numbers that were fitted, each in words."""
