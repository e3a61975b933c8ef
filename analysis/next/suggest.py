"""Which runs to make next: `next_runs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.ask import ask, check_demand, check_question
from analysis.decisions.choose import Pick, Setting, pick
from analysis.decisions.costs import Prices
from analysis.decisions.limits import Limits
from analysis.decisions.search import total_cost
from analysis.fitting.design import usual_shape
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.information import RELATIVE, relative_gradient
from analysis.fitting.known_noise import noise_of
from analysis.fitting.options import FitOptions
from analysis.fitting.run_noise import DesignRuns
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.next.best_sets import best_for_cost, best_within
from analysis.next.candidates import Candidates, Size, grid, of_file, sizes_around
from analysis.next.choice import expected_waste, when_to_stop
from analysis.next.narrowing import Goal, Narrowing
from analysis.results import Array, Fit, Interval
from analysis.results.next_runs import CandidateRun, Narrow, NextRun, NextRuns
from analysis.runs.table import RunTable
from llama.errors import UserError

#: What the law's usual shape counts beside the resamples, in runs: those of a dozen runs send exponents anywhere, and sets
#: that are best at the usual shape alone predicted better on synthetic tables.
PRIOR_RUNS = 100
#: Laws that errors are averaged over: many more only take longer.
RESAMPLES = 30
#: How many runs are named where nobody says.
USUAL_RUNS = 8
#: What is narrowed, as `Pick` calls it.
QUANTITIES: dict[Narrow, str] = {"n": "n_params", "d": "n_tokens", "loss": "loss", "dollars": "cost"}


def next_runs(
    table: RunTable,
    *,
    narrow: Narrow = "n",
    candidates: Path | Sequence[Size] | Callable[[Fit], Candidates] | None = None,
    runs: int | None = None,
    spend: float | None = None,
    flops: float | None = None,
    target_loss: float | None = None,
    budget: float | None = None,
    demand_tokens: float | None = None,
    prompt_share: float | None = None,
    prices: Prices | None = None,
    costs: Literal["auto", "flops", "measured"] = "auto",
    limits: Limits | None = None,
    unique_tokens: float | None = None,
    fit: Fit | None = None,
    **fit_options: Unpack[FitOptions],
) -> NextRuns:
    """The runs that would narrow a decision most for what they cost, in order, and whether they pay for themselves.

    Args:
        table: the runs so far, from `load_runs`.
        narrow: n or d, the size or tokens of the model that is chosen; loss, what it reaches; dollars, what it costs (in the
            unit of the costs).
        candidates: a CSV (`next.candidates.of_file`), what makes runs of a fit, sizes for a grid of lengths, or None for the
            sizes of the table and their neighbours. What is as dear as the target itself is left out of a grid.
        runs: how many to name, or
        spend: training FLOPs to spend on them. Neither: eight runs.
        flops, target_loss, budget and what follows: the decision, as `recommend` takes it.
        fit: of this table with these options, where it is at hand.
        fit_options: as `analysis.fit` takes them.

    Raises:
        UserError: no question or two, a quantity that the question fixes, no candidate, or a table that can't be fitted.
    """
    kind, value = check_question(flops, target_loss, budget)
    check_demand(demand_tokens, prompt_share, unique_tokens, ())
    if runs is not None and spend is not None:
        raise UserError("--runs says how many runs and --spend how much to spend: name one of the two")
    if runs is not None and runs < 1:
        raise UserError(f"--runs is {runs}; 1 or more is right")
    if spend is not None and not (np.isfinite(spend) and spend > 0):
        raise UserError(f"--spend is {spend:g} FLOPs; it must be above 0 and finite")
    _check_narrow(narrow, kind, demand_tokens)
    fitted = fit or fit_law(table, **fit_options)
    if fitted.draws_KP is None:
        raise UserError("the next run is judged over the fit's resamples: leave --bootstrap at 100 or more")
    table = table.at_the_best_rate()
    setting_of, _ = ask(
        table,
        fitted,
        kind=kind,
        value=value,
        costs=costs,
        prices=prices or Prices(),
        limits=limits or Limits(),
        demand_tokens=demand_tokens,
        prompt_share=prompt_share,
        unique_tokens=unique_tokens,
    )
    setting, law = setting_of(fitted.counting), get_law(fitted.law)
    chosen_today, drawn = _picks(setting, law, fitted)
    options = _candidates(candidates, fitted, setting, chosen_today)
    noise, noise_rule = noise_of(table, fitted)
    made = made_runs(fitted)
    params_KP, gradients = _gradients(setting, law, resamples(fitted, law), QUANTITIES[narrow])
    narrowing = Narrowing(
        law=law,
        params_KP=params_KP,
        made=made,
        candidates=options.runs,
        noise=noise,
        weight_n=np.array([point.weight for point in fitted.points if not point.held_out]),
    )
    place = DesignRuns.of_cells([(float(chosen_today.n_params), float(chosen_today.n_tokens), 1)])
    goal = Goal(gradient_KP=gradients[QUANTITIES[narrow]], place=place if narrow == "loss" else None)
    size = Goal(gradient_KP=gradients["n_params"])
    cost_m = total_cost(setting.costs, options.runs.n_params_n, options.runs.n_tokens_n, 0.0)
    cost_m = cost_m * options.flops_m / (setting.train_flops(options.runs.n_params_n) * options.runs.n_tokens_n)
    order = (
        best_within(narrowing, goal, options.flops_m, spend)
        if spend is not None
        else best_for_cost(narrowing, goal, options.flops_m, runs or USUAL_RUNS)
    )
    named = _named(options, cost_m, narrowing.shares(goal))
    name = QUANTITIES[narrow]
    today, now = float(getattr(chosen_today, name)), interval(getattr(drawn, name))
    waste = expected_waste(setting, law, fitted.draws_KP, drawn, float(chosen_today.n_params))
    target_cost = float(total_cost(setting.costs, chosen_today.n_params, chosen_today.n_tokens, setting.demand_tokens))
    batch: list[NextRun] = []
    for k in range(1, len(order) + 1):
        left = narrowing.left(goal, order[:k])
        batch.append(
            NextRun(
                run=named[order[k - 1]],
                spent_flops=float(options.flops_m[order[:k]].sum()),
                spent_cost=float(cost_m[order[:k]].sum()),
                left=left,
                ci95=narrowed(name, today, now, left),
                saving=target_cost * waste * max(1 - narrowing.left(size, order[:k]), 0.0),
            )
        )
    stop = when_to_stop(
        waste=waste,
        target_cost=target_cost,
        left_by_all=min(narrowing.left(size, rows) for rows in (np.arange(len(cost_m)), order)),
        savings=[step.saving for step in batch],
        spent=[step.spent_cost for step in batch],
        unit=setting.costs.unit,
    )
    return NextRuns(
        question=setting.question,
        fit=fitted,
        costs=setting.costs,
        narrow=narrow,
        unit={"n": "parameters", "d": "tokens", "loss": "nats a token", "dollars": setting.costs.unit}[narrow],
        value=today,
        ci95=now,
        noise=noise,
        noise_rule=noise_rule,
        made=tuple(zip(made.n_params_n.tolist(), made.n_tokens_n.tolist(), strict=True)),
        target=(float(chosen_today.n_params), float(chosen_today.n_tokens)),
        candidates=named,
        chosen=tuple(batch),
        stop=stop,
        resamples=len(params_KP),
        warnings=tuple(dict.fromkeys((*fitted.warnings, *_warnings(spend, order, options)))),
    )


def made_runs(fit: Fit) -> DesignRuns:
    """The fitted runs as a design."""
    points = [point for point in fit.points if not point.held_out]
    groups = [point.group for point in points]
    return DesignRuns(
        n_params_n=np.array([point.n_params for point in points]),
        n_tokens_n=np.array([point.n_tokens for point in points]),
        trunk_n=np.array(groups, dtype=np.str_),
        scale_n=np.array([point.noise_scale for point in points]),
        unique_tokens_n=np.array([point.unique_tokens for point in points]),
    )


def resamples(fit: Fit, law: Law) -> Array:
    """Parameters (K, P) to judge runs at: the fit's resamples, and the law's usual shape (`fitting.design`) through its runs.

    The shape stands in for 100 of 100 + n of them: what was known before the n runs, worth a hundred. Few runs resampled give
    laws far from any that was ever fitted, and what is best under those is best for nobody.
    """
    assert fit.draws_KP is not None
    points = [point for point in fit.points if not point.held_out]
    n, d, unique, loss = (
        np.array([getattr(point, name) for point in points])
        for name in ("n_params", "n_tokens", "unique_tokens", "loss")
    )
    usual = usual_shape(law, n, d, unique if law.uses_unique_tokens else None, float(np.exp(np.log(loss).mean())))
    ratio = PRIOR_RUNS / len(points)
    drawn_KP = fit.draws_KP[np.isfinite(fit.draws_KP).all(-1)][: round(RESAMPLES / (1 + ratio))]
    return np.concatenate([drawn_KP, np.repeat(usual[None], round(len(drawn_KP) * ratio), axis=0)])


def narrowed(name: str, value: float, now: Interval, left: float) -> Interval:
    """Today's interval drawn in about `value` to what a share `left` of its variance leaves; in the logarithm for sizes."""
    factor = float(np.sqrt(left))
    if name in RELATIVE:
        return Interval(lo=value * (now.lo / value) ** factor, hi=value * (now.hi / value) ** factor)
    return Interval(lo=value + (now.lo - value) * factor, hi=value + (now.hi - value) * factor)


def _check_narrow(narrow: Narrow, kind: str, demand_tokens: float | None) -> None:
    if narrow not in QUANTITIES:
        raise UserError(f"nothing to narrow is called {narrow!r}; there are {', '.join(QUANTITIES)}")
    if narrow == "loss" and kind == "target_loss":
        raise UserError("--narrow loss: the question fixes the loss; n, d or dollars is right")
    if narrow == "dollars" and (kind == "budget" or (kind == "compute" and demand_tokens is None)):
        raise UserError("--narrow dollars: the question fixes what is spent; n, d or loss is right")


def _picks(setting: Setting, law: Law, fit: Fit) -> tuple[Pick, Pick]:
    """What the law chooses today, and what each resample would."""
    assert fit.draws_KP is not None
    with np.errstate(all="ignore"):
        today = pick(setting, law, law.as_vector(fit.params))
        drawn = pick(setting, law, fit.draws_KP)
    if not (np.isfinite(today.n_params) and np.isfinite(today.n_tokens)):
        raise UserError(
            f"the law {fit.law} has no answer to this question today (isoloss recommend says why): ask for a target that it "
            "reaches, and the next runs can be judged by it"
        )
    return today, drawn


def _gradients(setting: Setting, law: Law, params_KP: Array, name: str) -> tuple[Array, dict[str, Array]]:
    """Laws at which the decision has derivatives, and these, by quantity: of the logarithm, as noise and misfit are."""

    def quantities(params: Array) -> dict[str, Array]:
        chosen = pick(setting, law, params)._asdict()
        return chosen | {"loss": np.log(chosen["loss"])}

    gradients = relative_gradient(quantities, params_KP)
    sound = np.ones(len(params_KP), dtype=np.bool_)
    for quantity in {name, "n_params"}:
        sound &= np.isfinite(gradients[quantity]).all(-1) & (np.abs(gradients[quantity]).max(-1) > 0)
    if sound.sum() < len(params_KP) // 2:
        raise UserError(
            f"{int(sound.sum())} of {len(params_KP)} resampled laws have an answer to this question, too few to judge runs by. "
            "Ask for a nearer target"
        )
    return params_KP[sound], {quantity: rows[sound] for quantity, rows in gradients.items()}


def _candidates(
    given: Path | Sequence[Size] | Callable[[Fit], Candidates] | None, fit: Fit, setting: Setting, today: Pick
) -> Candidates:
    if isinstance(given, Path):
        return of_file(given, fit, setting.train_flops)
    if callable(given):
        return given(fit)
    found = grid(fit, given or sizes_around(fit, setting.train_flops), setting.train_flops)
    if not len(found.flops_m):
        raise UserError(
            "no cell of the grid lies near the fitted tokens a parameter and costs about what the runs so far did: "
            "name candidates in a file (--candidates)"
        )
    cheaper = found.flops_m < float(setting.train_flops(today.n_params) * today.n_tokens)
    if not cheaper.any():
        raise UserError(
            "the target's own training costs less than any run of the grid: train it. Other candidates can be named in a file "
            "(--candidates)"
        )
    return found.only(cheaper)


def _named(options: Candidates, cost_m: Array, share_m: Array) -> tuple[CandidateRun, ...]:
    columns = (options.runs.n_params_n, options.runs.n_tokens_n, options.flops_m, cost_m, share_m)
    return tuple(
        CandidateRun(
            name=name, size=size, seed=seed, needs=needs, n_params=n, n_tokens=d, flops=flops, cost=cost, share=share
        )
        for name, size, seed, needs, n, d, flops, cost, share in zip(
            options.names,
            options.sizes,
            options.seeds,
            options.needs,
            *(column.tolist() for column in columns),
            strict=True,
        )
    )


def _warnings(spend: float | None, order: NDArray[np.intp], options: Candidates) -> list[str]:
    if spend is None or len(order):
        return []
    return [f"the cheapest candidate costs {options.flops_m.min():.3g} FLOPs, more than --spend {spend:.3g}"]
