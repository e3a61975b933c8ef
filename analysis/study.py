"""Everything that one table of runs says: `analyse`. What can't be worked out is absent with its reason, not an exception."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, Unpack

import numpy as np

from analysis.answer import NO_PAIR, put_in_words
from analysis.decisions.ask import check_demand, check_question
from analysis.decisions.costs import Prices, decide_costs, flops_costs, training_flops
from analysis.decisions.family import Members
from analysis.decisions.lifetime import k_curve, lifetime
from analysis.decisions.limits import Limits
from analysis.decisions.matched_pairs import fitted_pair, loss_noise, matched_pairs
from analysis.decisions.recommend import recommend
from analysis.decisions.search import surface
from analysis.decisions.serving import measure_serving
from analysis.fitting.extrapolation import expanding_window
from analysis.fitting.fit import check_options, fit, why_none
from analysis.fitting.options import FitOptions, complete
from analysis.fitting.residual_structure import residual_structure
from analysis.laws import get_law
from analysis.optima.approaches import approaches
from analysis.optima.frontier import frontier
from analysis.optima.isoflop import isoflop
from analysis.optima.optimum import budget_optimum, compute_optimum, is_model
from analysis.results import (
    BudgetOptimum,
    Costs,
    Extrapolation,
    Fit,
    FrontierPoint,
    Isoflop,
    KCurve,
    Lifetime,
    MatchedPair,
    Recommendation,
    ResidualStructure,
    Serving,
    Study,
    TokenCost,
)
from analysis.runs.table import LossCurve, RunTable
from analysis.words import count
from llama.errors import UserError

T = TypeVar("T")
#: The target loss, where none is named, is the law's best at this share of the largest budget: a smaller model can then be
#: trained longer for it and stay within what was measured.
TARGET_SHARE = 0.5
#: A size whose measured serving cost is off t0 + c N by more than this is named.
ODD_COST = 0.3
#: Parts that there are none of without a law.
LAWLESS = ("budgets", "lifetime", "k_curve", "structure", "extrapolation", "recommendation")


def analyse(
    table: RunTable,
    *,
    curves: tuple[LossCurve, ...] = (),
    flops: float | None = None,
    target_loss: float | None = None,
    budget: float | None = None,
    demand_tokens: float | None = None,
    prompt_share: float | None = None,
    unique_tokens: float | None = None,
    prices: Prices | None = None,
    costs: Literal["auto", "flops", "measured"] = "auto",
    limits: Limits | None = None,
    sizes: Sequence[float] = (),
    members: Members | None = None,
    **options: Unpack[FitOptions],
) -> Study:
    """Fit and its checks, optima three ways, serving cost, lifetime optimum, the recommendation with its whole uncertainty,
    matched pairs and the answer in words.

    Args:
        table: from `load_runs`.
        curves: from `load_curves`, for the plots.
        target_loss: of the lifetime optimum, nats a token; None takes the recommended model's where another question is
            asked, else the law's best at half the largest budget.
        demand_tokens: tokens to be served; None takes the demand at which serving costs as much as training.
        prompt_share: share of served tokens that are prompt; None takes that of the measured requests.
        unique_tokens: distinct tokens to train on; None: nothing repeats.
        prices: what dollars are counted by (`analysis.decisions.costs.Prices`); None leaves costs in seconds or FLOPs.
        flops, budget, costs, limits, sizes, members: as `recommend` takes them; where neither of the first two is asked, the
            recommendation is for the target loss and the demand of the lifetime optimum.
        options: as `analysis.fit` takes them.

    Raises:
        UserError: no run can be used, or what was asked is impossible or can't be met; what only the runs can't tell is absent.
    """
    asked = _Asked(
        flops=flops,
        target_loss=target_loss,
        budget=budget,
        demand_tokens=demand_tokens,
        prompt_share=prompt_share,
        unique_tokens=unique_tokens,
        prices=prices,
        costs=costs,
        limits=limits,
        sizes=sizes,
        members=members,
        options=complete(options),
    )
    asked.check()
    if not len(table.usable):
        raise UserError(f"{table.source} has no run that can be used{why_none(table)}")
    attempt = _Attempts()
    # Laws of odd runs, and draws of any, may pass what a double holds on the way; what is told is checked where it is made.
    with np.errstate(all="ignore"):
        measured = _measure(table.at_the_best_rate(), asked, attempt)
        found = _by_law(measured, asked, attempt)
        three = attempt("approaches", lambda: approaches(measured.table, fit=found.fit, **asked.options))
        pairs = _pairs(measured, found, asked, attempt)
    return Study(
        table=measured.table,
        curves=curves,
        fit=found.fit,
        frontier=measured.frontier,
        isoflop=measured.isoflop,
        train_flops=measured.train_flops,
        budgets=found.budgets,
        serving=measured.serving,
        costs=measured.costs,
        lifetime=found.lifetime,
        k_curve=found.k_curve,
        recommendation=found.recommendation,
        structure=found.structure,
        extrapolation=found.extrapolation,
        approaches=three,
        pairs=pairs,
        answer=put_in_words(
            fit=found.fit,
            budgets=found.budgets,
            isoflop=measured.isoflop,
            serving=measured.serving,
            lifetime=found.lifetime,
            pairs=pairs,
            absent=attempt.absent,
            recommendation=found.recommendation,
            structure=found.structure,
            costs=measured.costs,
            asked=asked.of_a_model or asked.of_costs or demand_tokens is not None,
        ),
        absent=attempt.absent,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The question, as `analyse` takes it."""

    flops: float | None
    target_loss: float | None
    budget: float | None
    demand_tokens: float | None
    prompt_share: float | None
    unique_tokens: float | None
    prices: Prices | None
    costs: Literal["auto", "flops", "measured"]
    limits: Limits | None
    sizes: Sequence[float]
    members: Members | None
    options: FitOptions

    @property
    def counting(self) -> str:
        return self.options["counting"]

    @property
    def of_lifetime(self) -> bool:
        """Whether the recommendation is the lifetime optimum's: no other question was asked."""
        return self.flops is None and self.budget is None

    @property
    def of_costs(self) -> bool:
        """Whether anything was named that costs are to be counted by."""
        return self.prices is not None or self.costs != "auto"

    @property
    def of_a_model(self) -> bool:
        """Whether anything was named that the recommended model must meet."""
        named = (self.flops, self.target_loss, self.budget, self.limits, self.members)
        return any(value is not None for value in named) or len(self.sizes) > 0

    def check(self) -> None:
        """Refuse what no runs could answer."""
        check_options(**self.options)
        if not self.of_lifetime or self.target_loss is not None:
            check_question(self.flops, self.target_loss, self.budget)
        check_demand(
            self.demand_tokens, self.prompt_share, self.unique_tokens, self.sizes, must_be_named=not self.of_lifetime
        )


@dataclass(frozen=True, kw_only=True)
class _Attempts:
    """Work that may not be possible: its result, or None with the reason noted under the name of the part."""

    absent: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[[], T], *, asked_for: bool = False) -> T | None:
        """`asked_for`: options depend on it, so it is refused rather than left out."""
        try:
            return work()
        except UserError as error:
            if asked_for:
                raise
            self.absent[name] = str(error)
            return None


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What the runs say without a law."""

    table: RunTable
    """With the warnings of what was found on the way."""
    train_flops: TokenCost
    serving: Serving | None
    frontier: tuple[FrontierPoint, ...]
    isoflop: Isoflop | None
    costs: Costs
    budgets: list[float]
    """FLOPs, ascending."""


@dataclass(frozen=True, kw_only=True)
class _ByLaw:
    """What follows from the fitted law."""

    fit: Fit | None = None
    budgets: tuple[BudgetOptimum, ...] = ()
    lifetime: Lifetime | None = None
    k_curve: KCurve | None = None
    structure: ResidualStructure | None = None
    extrapolation: Extrapolation | None = None
    recommendation: Recommendation | None = None


def _measure(table: RunTable, asked: _Asked, attempt: _Attempts) -> _Measured:
    counting = asked.counting
    train_flops = training_flops(table, counting=counting)
    serving = attempt("serving", lambda: measure_serving(table, counting=counting, prompt_share=asked.prompt_share))
    for words in _doubts(train_flops, serving):
        table = table.with_warning(words)
    envelope = frontier(table, counting=counting)
    if not envelope:
        attempt.absent["frontier"] = f"{table.source} has no finished run with FLOPs"
    bowls = isoflop(table, train_flops, counting=counting)
    if bowls is None:
        attempt.absent["isoflop"] = f"{table.source} declares no compute budgets (flops_budget)"
    costs = attempt(
        "costs",
        lambda: decide_costs(
            table,
            train_flops=train_flops,
            serving=None if asked.costs == "flops" else serving,
            prices=asked.prices or Prices(),
            source=asked.costs,
            counting=counting,
            prompt_share=asked.prompt_share,
        ),
        asked_for=asked.of_costs,
    )
    return _Measured(
        table=table,
        train_flops=train_flops,
        serving=serving,
        frontier=envelope,
        isoflop=bowls,
        costs=costs or flops_costs(train_flops),
        budgets=_budgets(table, train_flops, counting),
    )


def _doubts(train_flops: TokenCost, serving: Serving | None) -> list[str]:
    """Warnings of how compute was counted and serving measured."""
    doubts = []
    if train_flops.max_rel_error == 0 and not len(train_flops.n_params_G):
        doubts.append(f"training compute is counted as {train_flops.rule}")
    if serving is not None:
        doubts += serving.left_out
        if serving.per_token.max_rel_error > ODD_COST:
            doubts.append(_odd_cost(serving.per_token))
    return doubts


def _odd_cost(cost: TokenCost) -> str:
    off = cost(cost.n_params_G) / cost.measured_G - 1
    worst = int(np.argmax(np.abs(off)))
    return (
        f"the measured serving cost of {count(float(cost.n_params_G[worst]))} parameters is {abs(off[worst]):.0%} off the line "
        "through the other sizes: was the machine busy when it was measured?"
    )


def _budgets(table: RunTable, train_flops: TokenCost, counting: str) -> list[float]:
    """The declared budgets, ascending; the largest run's training FLOPs where none are declared."""
    runs = table.usable.dropna(subset=[counting])
    declared = sorted(float(budget) for budget in runs["flops_budget"].dropna().unique())
    if declared or not len(runs):
        return declared
    counted = runs["flops"].fillna(runs["n_tokens"] * train_flops(runs[counting].to_numpy(dtype=np.float64)))
    return [float(counted.max())]


def _by_law(measured: _Measured, asked: _Asked, attempt: _Attempts) -> _ByLaw:
    fitted = attempt("fit", lambda: fit(measured.table, **asked.options))
    if fitted is None:
        attempt.absent.update(dict.fromkeys(LAWLESS, "no law was fitted"))
        return _ByLaw()
    optima = attempt(
        "budgets",
        lambda: tuple(budget_optimum(fitted, budget, measured.train_flops) for budget in measured.budgets),
    )
    extrapolation = attempt("extrapolation", lambda: expanding_window(measured.table, fitted))
    owned, advice = _decide(measured, fitted, extrapolation, asked, attempt)
    return _ByLaw(
        fit=fitted,
        budgets=optima or (),
        lifetime=owned,
        k_curve=attempt("k_curve", lambda: _k_curve(fitted)),
        structure=attempt("structure", lambda: residual_structure(fitted)),
        extrapolation=extrapolation,
        recommendation=advice,
    )


def _decide(
    measured: _Measured, fitted: Fit, extrapolation: Extrapolation | None, asked: _Asked, attempt: _Attempts
) -> tuple[Lifetime | None, Recommendation | None]:
    """The lifetime optimum and the recommendation, both about one loss and one demand, whichever of the two they come from."""

    def advise(target_loss: float | None, demand_tokens: float | None) -> Recommendation | None:
        return attempt(
            "recommendation",
            lambda: _recommend(measured, fitted, extrapolation, asked, target_loss, demand_tokens),
            asked_for=asked.of_costs or asked.of_a_model,
        )

    if not asked.of_lifetime:
        advice = advise(asked.target_loss, asked.demand_tokens)
        loss = None if advice is None else advice.recommended.loss
        return attempt("lifetime", lambda: _lifetime(measured, fitted, asked, loss)), advice
    owned = attempt(
        "lifetime",
        lambda: _lifetime(measured, fitted, asked, asked.target_loss),
        asked_for=asked.target_loss is not None,
    )
    if owned is None:
        attempt.absent["recommendation"] = attempt.absent["lifetime"]
        return None, None
    return owned, advise(owned.target_loss, owned.demand_tokens)


def _lifetime(measured: _Measured, fitted: Fit, asked: _Asked, target_loss: float | None) -> Lifetime:
    unique_tokens = np.inf if asked.unique_tokens is None else asked.unique_tokens
    if target_loss is None:
        target_loss = _target_loss(measured, fitted, unique_tokens)
    sizes = np.unique(measured.table.usable[fitted.counting].dropna().to_numpy(dtype=np.float64))
    return lifetime(
        fitted,
        measured.costs,
        target_loss=target_loss,
        sizes=sizes,
        demand_tokens=asked.demand_tokens,
        unique_tokens=unique_tokens,
    )


def _target_loss(measured: _Measured, fitted: Fit, unique_tokens: float) -> float:
    """The law's best at half the largest budget."""
    law = surface(get_law(fitted.law), unique_tokens)
    params = law.as_vector(fitted.params)
    flops = measured.budgets[-1] * TARGET_SHARE
    best = compute_optimum(law, params, flops, measured.train_flops, unique_tokens)
    if not is_model(*map(float, best)):
        raise UserError(
            f"no target loss is named (--target-loss), and the law {fitted.law} has no compute-optimal model at half the "
            "largest budget to take it from"
        )
    return float(law.predict(params, *best, unique_tokens))


def _recommend(
    measured: _Measured,
    fitted: Fit,
    extrapolation: Extrapolation | None,
    asked: _Asked,
    target_loss: float | None,
    demand_tokens: float | None,
) -> Recommendation:
    costs = asked.costs
    if costs == "auto" and measured.costs.source != "measured" and asked.prices is None:
        costs = "flops"
    return recommend(
        measured.table,
        flops=asked.flops,
        target_loss=target_loss,
        budget=asked.budget,
        demand_tokens=demand_tokens,
        prompt_share=asked.prompt_share,
        unique_tokens=asked.unique_tokens,
        prices=asked.prices,
        costs=costs,
        limits=asked.limits,
        sizes=asked.sizes,
        members=asked.members,
        fit=fitted,
        extrapolation=extrapolation,
        **asked.options,
    )


def _k_curve(fitted: Fit) -> KCurve:
    law = get_law(fitted.law)
    shape = law.shape(law.as_vector(fitted.params))
    return k_curve(float(shape.alpha), float(shape.beta))


def _pairs(measured: _Measured, found: _ByLaw, asked: _Asked, attempt: _Attempts) -> tuple[MatchedPair, ...]:
    """The measured ones, then the law's at the largest budget, where half its optimum can be trained to the same loss."""
    pairs = matched_pairs(
        measured.table,
        noise=loss_noise(measured.table, found.fit),
        serving=measured.serving,
        costs=measured.costs,
        counting=asked.counting,
    )
    if not pairs:
        attempt.absent["pairs"] = NO_PAIR
    if found.fit is not None and found.budgets:
        by_law = fitted_pair(found.fit, measured.budgets[-1], measured.train_flops, measured.costs)
        if is_model(by_law.small.n_params, by_law.small.n_tokens):
            pairs = (*pairs, by_law)
    return pairs
