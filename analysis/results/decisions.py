"""What to train: optima, lifetime cost over demand, break-evens, matched pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.results.basic import Array, Band, Interval
from analysis.results.costs import Costs


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
    tolerance_source: Literal["seeds", "law", "assumed"]
    """What that rests on: the noise between seeds, the law's own scatter where no seeds repeat, or 1 % where no law is."""
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
