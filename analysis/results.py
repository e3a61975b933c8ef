"""Results of an analysis as typed records: what the plots, the report and the command read.

Units throughout: N in parameters (under the fit's counting rule), D in tokens, loss in nats a token, compute in FLOPs, cost in
the unit that its record names. Arrays are float64; a suffix gives their axes: K bootstrap draws, P law parameters, G grid.
A part that could not be worked out is None in `Study`, and `Study.absent` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from analysis.table import LossCurve, RunTable

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


# ---------------------------------------------------------------------------------------------------------------- the fit


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


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How the intervals came about."""

    method: Literal["group", "parametric", "run"]
    """`group`: whole trunks or seed groups drawn with replacement; `parametric`: the law plus noise; `run`: single runs."""
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
    """Percentile intervals by parameter; None without a bootstrap."""
    objective_value: float
    exponents: Exponents
    residual_sd: float
    """Sd of log residuals over the fitted runs, with the law's parameters taken off the degrees of freedom."""
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
    warnings: tuple[str, ...]


# ------------------------------------------------------------------------------------------ measured points, no law needed


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """A run that no cheaper run beats: the lower envelope of loss against FLOPs."""

    run_id: str
    name: str
    n_params: float
    n_tokens: float
    flops: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class BowlPoint:
    """One size at one budget; seeds of one cell are averaged."""

    n_params: float
    n_tokens: float
    loss: float
    n_runs: int


@dataclass(frozen=True, kw_only=True)
class IsoflopVertex:
    """The bowl of one declared budget: loss as a quadratic in x = ln N - ln_n_centre: c0 + c1 x + c2 x^2."""

    flops_budget: float
    points: tuple[BowlPoint, ...]
    """By N, ascending."""
    ln_n_centre: float
    coefficients: tuple[float, float, float] | None
    """(c0, c1, c2); None when the bowl has too few sizes for a parabola."""
    n_opt: float | None
    """N at the vertex; None where there is none (`flag` says why)."""
    d_opt: float | None
    """Tokens at the vertex, by the budget over the FLOPs a token at n_opt."""
    loss: float | None
    """The parabola's loss at the vertex."""
    flag: str | None
    """Why the vertex is not trusted: the least loss at the grid's edge, a vertex outside the sizes, no upward curve, too few
    sizes. None: the vertex enters the power laws."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = coefficient * C^exponent through the unflagged vertices, least squares in logs."""

    quantity: Literal["n_opt", "d_opt"]
    coefficient: float
    exponent: float
    exponent_ci95: Interval | None
    """By Student's t over the vertices (needs three); None with two."""
    band: Band
    """y over a grid of C in FLOPs, a little wider than the vertices."""


@dataclass(frozen=True, kw_only=True)
class Isoflop:
    """Approach 2: bowls by declared budget and the power laws through their vertices."""

    vertices: tuple[IsoflopVertex, ...]
    """By budget, ascending, flagged ones too."""
    n_opt: PowerLaw | None
    d_opt: PowerLaw | None
    """None with fewer than two unflagged vertices."""
    skipped: tuple[str, ...]
    """Budgets that gave no vertex, each with its reason."""


# ------------------------------------------------------------------------------------------------------------------ costs


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Cost of one token as a function of N: intercept + slope * N^exponent."""

    unit: str
    """FLOPs, core-seconds, GPU-seconds or USD, a token."""
    intercept: float
    """t0: what a token costs at any size (launch overhead), in `unit`."""
    slope: float
    exponent: float
    """1 but for FLOPs that follow the table's own count."""
    source: Literal["measured", "flops"]
    rule: str
    """How it came about, in words: for captions."""
    max_rel_error: float
    """Largest |fit/measured - 1| over the sizes it was fitted to; 0 for a rule."""
    n_params_G: Array
    measured_G: Array
    """The sizes and costs it was fitted to, ascending in N; empty for a rule."""

    def __call__(self, n_params: Array | float) -> Array:
        return np.asarray(self.intercept + self.slope * np.power(n_params, self.exponent), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """Measured seconds a token over sizes at one batch: t(N) = t0_seconds + seconds_per_param * N."""

    phase: Literal["decode", "prefill"]
    batch: int | None
    """None: each size at the batch where it saturates."""
    t0_seconds: float
    seconds_per_param: float
    max_rel_error: float
    n_params_G: Array
    seconds_per_token_G: Array


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Measured serving cost of the table's sizes, on one device."""

    device: str
    dtype: str
    threads: int
    prompt_tokens: int
    output_tokens: int
    """Of a measured request."""
    prompt_share: float
    """Share of served tokens that are prompt (prefill); the rest are output (decode)."""
    batches: tuple[BatchCost, ...]
    """Decode and prefill by batch, then at saturation (`batch` None)."""
    per_token: TokenCost
    """Core-seconds or GPU-seconds a served token at saturation: prompt_share of prefill and the rest of decode."""
    left_out: tuple[str, ...]
    """Sizes that were measured on another device or by another protocol, in words."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What training and serving a token cost, in one unit."""

    unit: str
    """FLOPs, core-seconds, GPU-seconds or USD."""
    source: Literal["measured", "flops"]
    train: TokenCost
    serve: TokenCost


# -------------------------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """A model to train: its size, its tokens, what it reaches and what it costs."""

    n_params: float
    n_tokens: float
    loss: float
    cost: float
    """In `unit`; training alone for a training optimum, training and serving for a lifetime optimum."""
    unit: str
    ci95: dict[str, Interval] | None
    """By field name (n_params, n_tokens, loss or cost); None without a bootstrap."""
    outside_fitted_range: tuple[str, ...]
    """What lies outside the fitted range, each in words; empty inside."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptimum:
    """The law's compute-optimal model at a training budget."""

    flops: float
    optimum: Optimum


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Demand from which the smaller of two sizes at one target loss is the cheaper to own."""

    small: float
    large: float
    """Sizes in parameters."""
    demand_tokens: float | None
    """Tokens served; 0 where the smaller is cheaper to train too, None where it never pays."""
    ci95: Interval | None


@dataclass(frozen=True, kw_only=True)
class SizeLine:
    """Lifetime cost of one size trained to the target loss, against demand."""

    n_params: float
    n_tokens: float
    """Tokens that the law asks for to reach the target loss at this size."""
    cost_G: Array
    """On the grid of `Lifetime.demand_tokens_G`."""


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """The line of optima over target losses, for the iso-loss contours."""

    loss_G: Array
    n_params_G: Array
    n_tokens_G: Array


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """The cheapest model to own at one target loss, over a grid of demand (Sardana et al. 2024)."""

    target_loss: float
    costs: Costs
    demand_tokens_G: Array
    """Tokens served over the model's life."""
    n_params: Band
    """The optimal N against demand."""
    n_tokens: Band
    """The optimal D against demand."""
    cost: Band
    """The least cost against demand."""
    within_1pct_G2: Array
    within_5pct_G2: Array
    """(lo, hi) of N whose cost lies within 1 % and 5 % of the least, by demand."""
    training_optimal: Optimum
    """The cheapest to train for the target loss: demand 0."""
    demand_tokens: float
    """The demand of `lifetime_optimal` and of the lifetime ridge: the grid's demand at which serving the training-optimal
    model would cost as much as training it, unless the caller named one."""
    lifetime_optimal: Optimum
    sizes: tuple[SizeLine, ...]
    """The measured sizes that can reach the target loss."""
    break_even: tuple[BreakEven, ...]
    """Between neighbours among `sizes`."""
    training_ridge: Ridge
    lifetime_ridge: Ridge
    """At `demand_tokens`."""
    extrapolated_G: NDArray[np.bool_]
    """True where the optimum leaves the fitted range."""


@dataclass(frozen=True, kw_only=True)
class KCurve:
    """Shrinking the compute-optimal model by k_n at the same loss takes k_d times the tokens (de Vries 2023)."""

    k_n_G: Array
    k_d_G: Array
    overhead_G: Array
    """k_n k_d - 1: extra training compute."""
    asymptote: float
    """The k_n below which no number of tokens makes up for the size."""


@dataclass(frozen=True, kw_only=True)
class PairSide:
    """One model of a matched pair."""

    run_id: str | None
    """None in a fitted pair."""
    name: str
    n_params: float
    n_tokens: float
    loss: float
    """Measured, or the law's in a fitted pair."""
    train_flops: float | None
    train_seconds: float | None
    """Core-seconds (GPU-seconds on a GPU) of the whole training, a branch's trunk included, at the size's median speed."""
    decode_tokens_per_second_batch_1: float | None
    decode_tokens_per_second_saturated: float | None
    serve_seconds_per_token: float | None
    """Core-seconds or GPU-seconds at saturation, prompt and output mixed as in `Serving.prompt_share`."""


@dataclass(frozen=True, kw_only=True)
class MatchedPair:
    """Two models of near-equal loss where the smaller was trained on more tokens."""

    kind: Literal["measured", "fitted"]
    """`measured`: two finished runs. `fitted`: the law's answer, never a measurement."""
    small: PairSide
    large: PairSide
    loss_gap: float
    """small.loss - large.loss: negative where the smaller is better too."""
    tolerance: float
    """Nats within which the two count as equal."""
    train_flops_ratio: float | None
    """small over large."""
    train_seconds_ratio: float | None
    speedup_batch_1: float | None
    """Decode tokens a second, small over large."""
    speedup_saturated: float | None
    break_even_tokens: float | None
    """Tokens served after which the smaller has paid for its longer training: 0 when it was no dearer to train, None when it
    serves no faster or nothing was measured."""
    break_even_range: Interval | None
    """5th to 95th percentile of `break_even_tokens`, from those of the serving timings and of training speed within a size;
    None where it is not measured or no spread is known. `hi` is infinite where the smaller may serve no cheaper."""
    serving_gap: str | None
    """Why the serving of the two isn't compared in time, in words; None where it is."""
    extrapolated: tuple[str, ...]
    """What of a fitted pair lies outside the measured range, in words."""


# --------------------------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the study says, in sentences a person can quote, most important first."""

    headline: str
    """The one sentence the project is for; says so where the data show no gain."""
    sentences: tuple[str, ...]
    """Law, intervals, held-out error, compute optimum, lifetime optimum, each with what it rests on."""
    measured: tuple[str, ...]
    interpolated: tuple[str, ...]
    extrapolated: tuple[str, ...]
    """What of the above was measured, what lies between measured points by a law or a line, and what lies beyond them."""
    gain: bool
    """Whether a smaller model trained longer pays off at some demand, by measurement."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of runs and everything that was worked out from it."""

    table: RunTable
    curves: tuple[LossCurve, ...]
    """Loss against tokens of every run and trunk that has a journal."""
    fit: Fit | None
    frontier: tuple[FrontierPoint, ...]
    isoflop: Isoflop | None
    train_flops: TokenCost
    """Training FLOPs a token over N: the table's own count, or 6 N by name."""
    budgets: tuple[BudgetOptimum, ...]
    """Compute-optimal models at the declared budgets, or at the largest run's FLOPs where none are declared."""
    compute_ridge: Band | None
    """The law's N_opt over a grid of C in FLOPs, with its band."""
    serving: Serving | None
    costs: Costs | None
    lifetime: Lifetime | None
    k_curve: KCurve | None
    pairs: tuple[MatchedPair, ...]
    """Measured pairs first, the most telling first; then fitted ones."""
    answer: Answer
    absent: dict[str, str]
    """By field name of this record: why a part is missing."""
