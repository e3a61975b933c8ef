"""The answer of `isoloss recommend`: what to train, what it costs to own, how sure that is, and what it hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.results.basic import Interval
from analysis.results.checks import Extrapolation
from analysis.results.costs import Costs
from analysis.results.decisions import BreakEven, Optimum
from analysis.results.fit import Fit
from analysis.results.uncertainty import Uncertainty


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked: exactly one of compute, target loss or budget, and the demand to be served."""

    kind: Literal["compute", "target_loss", "budget"]
    value: float
    unit: str
    """FLOPs, nats a token, or the unit of the budget (that of `Costs`)."""
    demand_tokens: float | None
    """Tokens to be served over the model's life; None where nothing was said about serving."""
    prompt_share: float | None
    """Share of them that is prompt; None where prompt and output cost the same or nothing is served."""
    unique_tokens: float | None
    """Distinct tokens to train on; None: nothing repeats."""


@dataclass(frozen=True, kw_only=True)
class Regret:
    """What planning for `forecast_tokens` costs when `demand_tokens` are served."""

    factor: float
    """demand_tokens / forecast_tokens."""
    demand_tokens: float
    n_params_best: float
    """The size that would have been cheapest."""
    extra_cost: float
    """Share of the least cost paid on top by the size that was recommended; 0 where the forecast comes true."""
    ci95: Interval | None
    """Of the same size under the resampled laws: above 0 at factor 1 too, where another size would have been cheaper. Infinite
    where it never reaches the loss."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit that was asked for, as a bound on N or on fresh data."""

    name: Literal["memory", "tpot", "largest_size", "smallest_size", "unique_tokens"]
    value: float
    """As it was asked for: bytes, seconds, parameters or tokens."""
    n_params: Interval | None
    """Sizes that it allows; None for a limit on data."""
    rule: str
    """How the bound came about, in words."""
    binds: bool
    """Whether the recommendation would be another without it."""
    effect: str | None
    """What it changes, in words; None where it doesn't bind."""


@dataclass(frozen=True, kw_only=True)
class TaskForecast:
    """N, D -> loss -> error or accuracy: the law's loss put through the curve that the runs' task results draw over loss."""

    target: str
    """Column of the target: task_error or task_accuracy."""
    loss: float
    """Of the recommended model by the law: where the curve is read."""
    value: float | None
    """Share of answers; None where there is no curve."""
    ci95: Interval | None
    """95 % interval of the recommended model's measured share: the loss's interval through the resampled curves, and the
    scatter of single runs about them."""
    fitted_losses: Interval | None
    """Losses that the curve was fitted to."""
    outside: str | None
    """In words, where the loss lies outside them; None inside."""
    absent: str | None
    """Why there is no curve."""


@dataclass(frozen=True, kw_only=True)
class FamilyMember:
    """One model of a family."""

    n_params: float
    demand_share: float
    n_tokens: float
    loss: float
    train_cost: float
    serve_cost: float
    """Both in `Family.cost_unit`; `serve_cost` of its share of the demand."""
    ci95: dict[str, Interval] | None
    """By n_tokens and loss; None without a bootstrap."""
    outside_fitted_range: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Several sizes under one budget: training tokens split so that the loss, weighted by demand, is least."""

    members: tuple[FamilyMember, ...]
    """Ascending in size."""
    budget: float
    unit: str
    """Of the budget."""
    cost_unit: str
    """Of the members' costs: that of `Costs`, which is another where FLOPs were asked for and dollars are counted."""
    weighted_loss: float
    """Of a served token: losses weighted by demand share."""
    alone_loss: float
    """Of the best single model under the same budget."""
    rule: str
    """How the budget was split and where the sizes came from, in words."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The decision with its alternatives and its doubts."""

    question: Question
    fit: Fit
    costs: Costs
    training_optimal: Optimum
    """The cheapest to train (compute, target loss) or the best that the budget trains."""
    lifetime_optimal: Optimum | None
    """The cheapest to own at the same loss (compute, target loss) or the best that the budget trains and serves; None
    without a demand. Its `ci95` are those of its own draws, the joint ones are in `uncertainty`."""
    within_1pct: Interval | None
    within_5pct: Interval | None
    """N whose cost, at the recommendation's loss and demand, lies within 1 % and 5 % of the least. Without a demand: of
    training alone."""
    saved: float | None
    """Share of the training-optimal model's lifetime cost that the lifetime-optimal one saves at the same loss."""
    break_even: tuple[BreakEven, ...]
    regret: tuple[Regret, ...]
    """At 0.1, 1 and 10 times the forecast; empty without a demand."""
    limits: tuple[Limit, ...]
    family: Family | None
    uncertainty: Uncertainty | None
    """None where it was not asked for."""
    loss_forecast: Interval
    """95 % interval of the recommended model's measured loss: the draws', widened by the error of extrapolation."""
    tasks: tuple[TaskForecast, ...] = ()
    """What it should do downstream, a target each; empty where the runs state no task column."""
    extrapolation: Extrapolation | None
    """What that error was taken from; None where no window could be fitted."""
    outside_fitted_range: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def recommended(self) -> Optimum:
        """The one to train: lifetime-optimal where a demand was named."""
        return self.lifetime_optimal or self.training_optimal
