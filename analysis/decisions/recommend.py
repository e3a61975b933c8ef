"""Which model to train, and for how long, when the tokens it will serve are counted too: `recommend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import numpy as np

from analysis.decisions.alternatives import break_evens, regret, saved
from analysis.decisions.ask import ask, check_demand, check_question
from analysis.decisions.choose import Pick, Setting, lifetime_pick, pick, training_pick
from analysis.decisions.costs import Prices
from analysis.decisions.doubts import check_repetition, doubts, unreached
from analysis.decisions.family import Members, family
from analysis.decisions.limits import Bound, Limits
from analysis.decisions.reach import bind, check_reach, no_answer
from analysis.decisions.search import surface, within
from analysis.decisions.tasks import foresee_tasks
from analysis.decisions.uncertainty import uncertainty
from analysis.fitting.extrapolation import expanding_window, forecast
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.options import FitOptions
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.optima.optimum import outside
from analysis.results import (
    Array,
    Extrapolation,
    Fit,
    Interval,
    Optimum,
    Recommendation,
)
from analysis.runs.table import RunTable
from llama.errors import UserError


def recommend(
    table: RunTable,
    *,
    flops: float | None = None,
    target_loss: float | None = None,
    budget: float | None = None,
    demand_tokens: float | None = None,
    prompt_share: float | None = None,
    prices: Prices | None = None,
    costs: Literal["auto", "flops", "measured"] = "auto",
    limits: Limits | None = None,
    unique_tokens: float | None = None,
    sizes: Sequence[float] = (),
    members: Members | None = None,
    vary: bool = True,
    fit: Fit | None = None,
    extrapolation: Extrapolation | None = None,
    **fit_options: Unpack[FitOptions],
) -> Recommendation:
    """The answer to one question about `table`'s family of models, with its whole uncertainty.

    Args:
        table: from `load_runs`.
        flops: training FLOPs to spend: which model is best, and with a demand, which of the same loss is cheapest to own?
        target_loss: nats a token to reach: which model is cheapest to train, and to own?
        budget: dollars (FLOPs where no price is known) to spend: what is the best that training alone buys, and training
            with serving? Exactly one of the three is asked.
        demand_tokens: tokens to be served over the model's life; None: serving is not counted.
        prompt_share: share of them that is prompt; None takes that of the measured requests where costs are measured.
        prices: what dollars are counted by, and a multiplier on serving (`analysis.Prices`); nothing is assumed.
        costs: auto takes measured costs where the runs have them and no peak is named.
        limits: on memory, time a token and size (`analysis.decisions.limits.Limits`).
        unique_tokens: distinct tokens to train on; more are repetitions (Muennighoff et al. 2023).
        sizes: in parameters as `counting` counts them, to have break-evens between all; () takes the neighbours among the
            measured sizes.
        members: of a family under the one budget (`analysis.decisions.family`).
        vary: repeat the fit under other objectives, outlier rules, laws and counts for the joint interval.
        fit, extrapolation: of this table with these options, where they are at hand.
        fit_options: as `analysis.fit` takes them.

    Raises:
        UserError: no question or two, an impossible value, limits that leave nothing, or a table that can't be fitted.
    """
    prices, limits = prices or Prices(), limits or Limits()
    kind, value = check_question(flops, target_loss, budget)
    check_demand(demand_tokens, prompt_share, unique_tokens, sizes)
    if prices.quantisation is not None and demand_tokens is None:
        raise UserError("--quantisation multiplies what serving costs: name --demand too")
    fitted = fit or fit_law(table, **fit_options)
    table = table.at_the_best_rate()
    if unique_tokens is not None:
        check_repetition(table, fitted)
    setting, found = ask(
        table,
        fitted,
        kind=kind,
        value=value,
        costs=costs,
        prices=prices,
        limits=limits,
        demand_tokens=demand_tokens,
        prompt_share=prompt_share,
        unique_tokens=unique_tokens,
    )
    asked, law = setting(fitted.counting), get_law(fitted.law)
    params = law.as_vector(fitted.params)

    def decide(within_bounds: tuple[Bound, ...]) -> Pick:
        return pick(setting(fitted.counting, within_bounds), law, params)

    best = decide(found)
    if not np.isfinite(best.n_params):
        raise UserError(no_answer(fitted, asked, found, decide))
    check_reach(fitted, asked.question, best, found)
    training_optimal = _optimum(fitted, asked, training_pick)
    lifetime_optimal = _optimum(fitted, asked, lifetime_pick) if demand_tokens is not None else None
    recommended = lifetime_optimal or training_optimal
    within_1pct, within_5pct = (_near(law, params, asked, best, share) for share in (0.01, 0.05))
    if extrapolation is None:
        extrapolation = _extrapolation(table, fitted)
    foreseen = forecast(fitted, extrapolation, recommended.n_params, recommended.n_tokens, asked.unique_tokens)
    spread = uncertainty(table, fitted, setting, **fit_options) if vary else None
    pairs, skipped = break_evens(table, fitted, asked, recommended.loss, sizes)
    single = recommended if kind == "budget" else training_optimal
    return Recommendation(
        question=asked.question,
        fit=fitted,
        costs=asked.costs,
        training_optimal=training_optimal,
        lifetime_optimal=lifetime_optimal,
        within_1pct=within_1pct,
        within_5pct=within_5pct,
        saved=saved(asked, surface(law, asked.unique_tokens), params, best) if demand_tokens is not None else None,
        break_even=pairs,
        regret=regret(fitted, asked, surface(law, asked.unique_tokens), best) if demand_tokens is not None else (),
        limits=tuple(bind(bound, found, best, decide) for bound in found),
        family=family(fitted, asked, members, alone=recommended, single=single) if members is not None else None,
        uncertainty=spread,
        loss_forecast=foreseen.ci95,
        tasks=foresee_tasks(table, fitted, foreseen),
        extrapolation=extrapolation,
        outside_fitted_range=recommended.outside_fitted_range,
        warnings=tuple(
            dict.fromkeys(
                (
                    *fitted.warnings,
                    *(spread.warnings if spread is not None else ()),
                    *([] if foreseen.note is None else [f"the forecast of the loss: {foreseen.note}"]),
                    *doubts(fitted, asked, recommended, prices),
                    *unreached(fitted, asked),
                    *skipped,
                )
            )
        ),
    )


def _optimum(fit: Fit, setting: Setting, picker: Callable[[Setting, Law, Array], Pick]) -> Optimum:
    law = get_law(fit.law)
    best = picker(setting, law, law.as_vector(fit.params))
    ci95 = None
    if fit.draws_KP is not None:
        drawn = picker(setting, law, fit.draws_KP)
        ci95 = {name: interval(values) for name, values in zip(Pick._fields, drawn, strict=True)}
    n_params, n_tokens = float(best.n_params), float(best.n_tokens)
    return Optimum(
        n_params=n_params,
        n_tokens=n_tokens,
        loss=float(best.loss),
        cost=float(best.cost),
        unit=setting.costs.unit,
        ci95=ci95,
        outside_fitted_range=outside(fit, n_params, n_tokens, float(best.loss)) if np.isfinite(n_params) else (),
    )


def _near(law: Law, params: Array, asked: Setting, best: Pick, share: float) -> Interval:
    """Sizes whose cost at the recommendation's loss is at most 1 + `share` times the least."""
    lo, hi = within(
        surface(law, asked.unique_tokens),
        params,
        asked.costs,
        float(best.loss),
        asked.demand_tokens,
        (best.n_params, best.n_tokens),
        share,
        unique_tokens=asked.unique_tokens,
        sizes=asked.sizes,
    )
    return Interval(lo=float(lo), hi=float(hi))


def _extrapolation(table: RunTable, fit: Fit) -> Extrapolation | None:
    try:
        return expanding_window(table, fit)
    except UserError:
        return None
