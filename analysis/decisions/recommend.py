"""Which model to train, and for how long, when the tokens it will serve are counted too: `recommend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, Unpack

import numpy as np

from analysis.decisions.alternatives import break_evens, regret, saved
from analysis.decisions.choose import Pick, Setting, lifetime_pick, pick, training_pick
from analysis.decisions.costs import Prices, decide_costs, training_flops
from analysis.decisions.family import Members, family
from analysis.decisions.lifetime import out_of_reach
from analysis.decisions.limits import Bound, Limits, allowed, bounds
from analysis.decisions.search import surface, within
from analysis.decisions.serving import measure_serving
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
    Limit,
    Optimum,
    Question,
    Recommendation,
    Serving,
)
from analysis.runs.table import RunTable
from analysis.words import count, number
from llama.errors import UserError

#: No fit says anything this many times beyond (or below) the compute that it was fitted to.
SENSELESS = 1e9
#: ln N or ln D moving by more than this is another recommendation.
MOVES = 1e-4
OPTIONS = {"compute": "--compute", "target_loss": "--target-loss", "budget": "--budget"}


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
    fitted = fit or fit_law(table, **fit_options)
    counting = fitted.counting
    table = table.at_the_best_rate()
    if kind == "budget" and costs == "auto" and prices.price_per_hour is None:
        costs = "flops"
    found = bounds(
        limits,
        table,
        _measured(table, "n_params", prompt_share) if limits.tpot_seconds is not None else None,
        unique_tokens=unique_tokens,
        law_repeats=get_law(fitted.law).uses_unique_tokens,
    )

    @cache
    def setting(rule: str, within_bounds: tuple[Bound, ...] = found) -> Setting:
        train = training_flops(table, counting=rule)
        decided = decide_costs(
            table,
            train_flops=train,
            serving=None if costs == "flops" else _measured(table, rule, prompt_share, must=costs == "measured"),
            prices=prices,
            source=costs,
            counting=rule,
            serves=demand_tokens is not None,
            prompt_share=prompt_share,
        )
        question = Question(
            kind=kind,
            value=value,
            unit={"compute": "FLOPs", "target_loss": "nats a token", "budget": decided.unit}[kind],
            demand_tokens=demand_tokens,
            prompt_share=decided.prompt_share if decided.prompt_share is not None else prompt_share,
            unique_tokens=unique_tokens if any(bound.name == "unique_tokens" for bound in within_bounds) else None,
        )
        return Setting(question=question, costs=decided, train_flops=train, sizes=allowed(within_bounds, table, rule))

    asked = setting(counting)
    chosen = get_law(fitted.law)
    params = chosen.as_vector(fitted.params)
    best = pick(asked, chosen, params)
    if not np.isfinite(best.n_params):
        raise UserError(
            _no_answer(fitted, asked, found, lambda without: pick(setting(counting, without), chosen, params))
        )
    _check_reach(fitted, asked.question, best)
    training_optimal = _optimum(fitted, asked, training_pick)
    lifetime_optimal = _optimum(fitted, asked, lifetime_pick) if demand_tokens is not None else None
    recommended = lifetime_optimal or training_optimal
    law_here, demand = surface(chosen, asked.unique_tokens), asked.demand_tokens
    near = [
        Interval(lo=float(lo), hi=float(hi))
        for lo, hi in (
            within(
                law_here,
                params,
                asked.costs,
                recommended.loss,
                demand,
                (best.n_params, best.n_tokens),
                share,
                unique_tokens=asked.unique_tokens,
                sizes=asked.sizes,
            )
            for share in (0.01, 0.05)
        )
    ]
    if extrapolation is None:
        extrapolation = _extrapolation(table, fitted)
    foreseen, doubts = _foresee(fitted, extrapolation, recommended)
    doubts += _doubts(fitted, asked, recommended, prices)
    doubts += _unreached(fitted, asked)
    found_limits = tuple(
        _bind(bound, found, best, lambda without: pick(setting(counting, without), chosen, params)) for bound in found
    )
    spread = uncertainty(table, fitted, setting, **fit_options) if vary else None
    return Recommendation(
        question=asked.question,
        fit=fitted,
        costs=asked.costs,
        training_optimal=training_optimal,
        lifetime_optimal=lifetime_optimal,
        within_1pct=near[0],
        within_5pct=near[1],
        saved=saved(asked, law_here, params, best) if demand_tokens is not None else None,
        break_even=break_evens(table, fitted, asked, recommended.loss, sizes),
        regret=regret(fitted, asked, law_here, best) if demand_tokens is not None else (),
        limits=found_limits,
        family=family(fitted, asked, members, alone=recommended.n_params) if members is not None else None,
        uncertainty=spread,
        loss_forecast=foreseen,
        extrapolation=extrapolation,
        outside_fitted_range=recommended.outside_fitted_range,
        warnings=tuple(dict.fromkeys((*fitted.warnings, *(spread.warnings if spread is not None else ()), *doubts))),
    )


def check_question(
    flops: float | None, target_loss: float | None, budget: float | None
) -> tuple[Literal["compute", "target_loss", "budget"], float]:
    """The one question and its value."""
    asked: list[tuple[Literal["compute", "target_loss", "budget"], float]] = []
    if flops is not None:
        asked.append(("compute", flops))
    if target_loss is not None:
        asked.append(("target_loss", target_loss))
    if budget is not None:
        asked.append(("budget", budget))
    if len(asked) != 1:
        given = " and ".join(OPTIONS[kind] for kind, _ in asked) if asked else "none of them"
        raise UserError(
            f"ask one question: --compute, --target-loss or --budget; {given} {'were' if asked else 'was'} given"
        )
    kind, value = asked[0]
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{OPTIONS[kind]} is {value:g}; it must be above 0 and finite")
    return kind, float(value)


def check_demand(
    demand_tokens: float | None,
    prompt_share: float | None,
    unique_tokens: float | None,
    sizes: Sequence[float],
    *,
    must_be_named: bool = True,
) -> None:
    """Refuse impossible values; a prompt share without a demand too, unless the caller takes one of its own."""
    if demand_tokens is not None and not (np.isfinite(demand_tokens) and demand_tokens > 0):
        raise UserError(
            f"--demand is {demand_tokens:g}; it must be above 0 and finite (leave it out where nothing is served)"
        )
    if prompt_share is not None and not 0 <= prompt_share <= 1:
        raise UserError(f"--prompt-share is {prompt_share:g}; it must be from 0 to 1")
    if must_be_named and prompt_share is not None and demand_tokens is None:
        raise UserError("--prompt-share says how a demand splits: name --demand too")
    if unique_tokens is not None and not (np.isfinite(unique_tokens) and unique_tokens > 0):
        raise UserError(f"--unique-tokens is {unique_tokens:g}; it must be above 0 and finite")
    for size in sizes:
        if not (np.isfinite(size) and size > 0):
            raise UserError(f"--size is {size:g}; it must be above 0 and finite")


def _measured(table: RunTable, counting: str, prompt_share: float | None, *, must: bool = False) -> Serving | None:
    try:
        return measure_serving(table, counting=counting, prompt_share=prompt_share)
    except UserError:
        if must:
            raise
        return None


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


def _no_answer(
    fit: Fit, setting: Setting, found: tuple[Bound, ...], decide: Callable[[tuple[Bound, ...]], Pick]
) -> str:
    """Why no model answers the question: a limit that leaves nothing, the law's own limit, or a budget that serving uses up."""
    question = setting.question
    what = f"{OPTIONS[question.kind]} {number(question.value)}"
    if found and np.isfinite(decide(()).n_params):
        alone = [bound for bound in found if np.isfinite(decide(tuple(b for b in found if b is not bound)).n_params)]
        blamed = alone or list(found)
        return f"no model answers {what} within {' and '.join(bound.in_words for bound in blamed)}"
    if question.kind == "budget":
        return (
            f"{what} {question.unit} is spent on serving {count(setting.demand_tokens)} tokens alone, at any size: raise it or "
            "lower --demand"
        )
    return out_of_reach(fit, get_law(fit.law), question.value, setting.unique_tokens)


def _check_reach(fit: Fit, question: Question, best: Pick) -> None:
    option, value, fitted = OPTIONS[question.kind], question.value, fit.fitted_range
    if question.kind == "target_loss" and value > fitted.loss.hi:
        raise UserError(
            f"{option} {value:g} is above every measured loss ({number(fitted.loss.lo)} to {number(fitted.loss.hi)} nats): "
            "every run was better"
        )
    distance = float(best.n_params * best.n_tokens)
    served = "" if question.demand_tokens is None else f" with --demand {question.demand_tokens:g}"
    for edge, factor in (
        (fitted.n_times_d.hi, distance / fitted.n_times_d.hi),
        (fitted.n_times_d.lo, fitted.n_times_d.lo / distance),
    ):
        if factor > SENSELESS:
            raise UserError(
                f"{option} {value:g}{served} asks for a model of {count(float(best.n_params))} parameters on "
                f"{count(float(best.n_tokens))} tokens, {number(factor)} times {'beyond' if distance > edge else 'below'} the "
                "compute that the law was fitted to: no fit says anything there"
            )


def _bind(bound: Bound, found: tuple[Bound, ...], best: Pick, decide: Callable[[tuple[Bound, ...]], Pick]) -> Limit:
    """The limit, and what the recommendation would be without it."""
    free = decide(tuple(other for other in found if other is not bound))
    moved = max(abs(float(np.log(free[field] / best[field]))) for field in (0, 1))
    if moved <= MOVES:
        return bound.found(None)
    effect = f"without it: {count(float(free.n_params))} parameters on {count(float(free.n_tokens))} tokens"
    if abs(float(free.cost / best.cost) - 1) > MOVES:
        less = float(1 - free.cost / best.cost)
        effect += f", {abs(less):.1%} {'less' if less > 0 else 'more'} cost"
    if abs(float(free.loss / best.loss) - 1) > MOVES / 10:
        effect += f", a loss of {float(free.loss):.4f} instead of {float(best.loss):.4f}"
    return bound.found(effect)


def _extrapolation(table: RunTable, fit: Fit) -> Extrapolation | None:
    try:
        return expanding_window(table, fit)
    except UserError:
        return None


def _foresee(fit: Fit, extrapolation: Extrapolation | None, best: Optimum) -> tuple[Interval, list[str]]:
    """What a run of the recommended model will measure, and what that interval leaves out."""
    foreseen = forecast(fit, extrapolation, best.n_params, best.n_tokens)
    # The forecast knows no repetition: its width is taken, about the loss that repetition leaves.
    shift = best.loss / foreseen.loss
    return (
        Interval(lo=foreseen.ci95.lo * shift, hi=foreseen.ci95.hi * shift),
        [] if foreseen.note is None else [f"the forecast of the loss: {foreseen.note}"],
    )


def _unreached(fit: Fit, setting: Setting) -> list[str]:
    """Draws without an answer: they count as infinite, so that an interval without an upper end is what they leave."""
    if fit.draws_KP is None:
        return []
    lost = float(np.mean(~np.isfinite(pick(setting, get_law(fit.law), fit.draws_KP).n_params)))
    if not lost:
        return []
    return [
        f"{lost:.1%} of the resampled laws have no model that answers {OPTIONS[setting.question.kind]}: they count as infinite"
    ]


def _doubts(fit: Fit, setting: Setting, best: Optimum, prices: Prices) -> list[str]:
    said = []
    fitted = fit.fitted_range.tokens_per_param
    ratio = best.n_tokens / best.n_params
    if ratio > fitted.hi * 1.001:
        said.append(
            f"{number(ratio)} tokens a parameter are beyond the {number(fitted.hi)} of the runs: fits on shorter training "
            "overstate what extra tokens buy (Sardana et al. 2024, section 4)"
        )
    if setting.question.unique_tokens is not None and best.n_tokens > setting.question.unique_tokens:
        said.append(
            f"the data are seen {number(best.n_tokens / setting.question.unique_tokens)} times over: a loss under "
            "repetition is less certain than one on fresh tokens"
        )
    if prices.quantisation is not None:
        said.append(
            "the multiplier for quantisation leaves the loss alone, but models trained on more tokens a parameter lose more "
            "when quantised (Kumar et al. 2024, arXiv 2411.04330): measure the loss of the quantised model"
        )
    if setting.costs.source == "measured":
        for what, cost in (("training", setting.costs.train), ("serving", setting.costs.serve)):
            if len(cost.n_params_G) and not cost.n_params_G[0] * 0.999 <= best.n_params <= cost.n_params_G[-1] * 1.001:
                said.append(
                    f"the cost of {what} was measured from {count(float(cost.n_params_G[0]))} to "
                    f"{count(float(cost.n_params_G[-1]))} parameters: at {count(best.n_params)} it is a line's extrapolation"
                )
    return said
