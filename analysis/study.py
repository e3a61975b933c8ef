"""Everything that one table of runs says: `analyse`. What can't be worked out is absent with its reason, not an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from analysis.answer import NO_PAIR, put_in_words
from analysis.decisions.costs import Prices, decide_costs, flops_costs, training_flops
from analysis.decisions.lifetime import k_curve, lifetime
from analysis.decisions.matched_pairs import fitted_pair, loss_noise, matched_pairs
from analysis.decisions.recommend import recommend
from analysis.decisions.search import surface
from analysis.decisions.serving import measure_serving
from analysis.fitting.extrapolation import expanding_window
from analysis.fitting.fit import fit, why_none
from analysis.fitting.residual_structure import residual_structure
from analysis.laws import get_law
from analysis.optima.approaches import approaches
from analysis.optima.frontier import frontier
from analysis.optima.isoflop import isoflop
from analysis.optima.optimum import budget_optimum, compute_ridge
from analysis.results import Costs, Fit, KCurve, Lifetime, Study, TokenCost
from analysis.runs.table import LossCurve, RunTable
from analysis.words import count
from llama.errors import UserError

T = TypeVar("T")
#: The target loss, where none is named, is the law's best at this share of the largest budget: a smaller model can then be
#: trained longer for it and stay within what was measured.
TARGET_SHARE = 0.5
#: A size whose measured serving cost is off t0 + c N by more than this is named.
ODD_COST = 0.3
#: How far past the budgets the compute-optimal ridge goes.
RIDGE_BELOW, RIDGE_ABOVE = 0.3, 10.0
#: Parts that there are none of without a law.
LAWLESS = ("budgets", "compute_ridge", "lifetime", "k_curve", "structure", "extrapolation", "recommendation")


def analyse(
    table: RunTable,
    *,
    curves: tuple[LossCurve, ...] = (),
    law: str = "chinchilla",
    objective: str = "huber_log",
    delta: float = 1e-3,
    counting: str = "n_params",
    bootstrap: int = 1000,
    resampling: str = "auto",
    seed: int = 0,
    target_loss: float | None = None,
    demand_tokens: float | None = None,
    prompt_share: float | None = None,
    unique_tokens: float | None = None,
    prices: Prices | None = None,
    weights: str = "column",
    drop_outliers: bool = False,
) -> Study:
    """Fit and its checks, optima three ways, serving cost, lifetime optimum, the recommendation with its whole uncertainty,
    matched pairs and the answer in words.

    Args:
        table: from `load_runs`.
        curves: from `load_curves`, for the plots.
        law, objective, delta, counting, weights, drop_outliers, bootstrap, resampling, seed: as `analysis.fit` takes them.
        target_loss: of the lifetime optimum, nats a token; None takes the law's best at half the largest budget.
        demand_tokens: tokens to be served; None takes the demand at which serving costs as much as training.
        prompt_share: share of served tokens that are prompt; None takes that of the measured requests.
        unique_tokens: distinct tokens to train on; None: nothing repeats.
        prices: what dollars are counted by (`analysis.decisions.costs.Prices`); None leaves costs in seconds or FLOPs.

    Raises:
        UserError: no run can be used, or an option has an impossible name.
    """
    if not len(table.usable):
        raise UserError(f"{table.source} has no run that can be used{why_none(table)}")
    table = table.at_the_best_rate()
    absent: dict[str, str] = {}

    def attempt(name: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except UserError as error:
            absent[name] = str(error)
            return None

    train_flops = training_flops(table, counting=counting)
    if train_flops.max_rel_error == 0 and not len(train_flops.n_params_G):
        table = table.with_warning(f"training compute is counted as {train_flops.rule}")
    serving = attempt("serving", lambda: measure_serving(table, counting=counting, prompt_share=prompt_share))
    for words in serving.left_out if serving is not None else ():
        table = table.with_warning(words)
    if serving is not None and serving.per_token.max_rel_error > ODD_COST:
        table = table.with_warning(_odd_cost(serving.per_token))
    fitted = attempt(
        "fit",
        lambda: fit(
            table,
            law=law,
            objective=objective,
            delta=delta,
            counting=counting,
            weights=weights,
            bootstrap=bootstrap,
            resampling=resampling,
            seed=seed,
            drop_outliers=drop_outliers,
        ),
    )
    envelope = frontier(table, counting=counting)
    if not envelope:
        absent["frontier"] = f"{table.source} has no finished run with FLOPs"
    bowls = isoflop(table, train_flops, counting=counting)
    if bowls is None:
        absent["isoflop"] = f"{table.source} declares no compute budgets (flops_budget)"
    costs = attempt(
        "costs",
        lambda: decide_costs(
            table,
            train_flops=train_flops,
            serving=serving,
            prices=prices or Prices(),
            counting=counting,
            prompt_share=prompt_share,
        ),
    ) or flops_costs(train_flops)
    budgets = _budgets(table, train_flops, counting)
    optima = tuple(budget_optimum(fitted, budget, train_flops) for budget in budgets) if fitted else ()
    owned = advice = structure = extrapolation = None
    if fitted is None:
        for name in LAWLESS:
            absent[name] = "no law was fitted"
    else:
        owned = attempt(
            "lifetime",
            lambda: _lifetime(table, fitted, costs, train_flops, budgets, target_loss, demand_tokens, unique_tokens),
        )
        structure = attempt("structure", lambda: residual_structure(fitted))
        extrapolation = attempt("extrapolation", lambda: expanding_window(table, fitted))
        if owned is None:
            absent["recommendation"] = absent["lifetime"]
        else:
            target, demand = owned.target_loss, owned.demand_tokens
            advice = attempt(
                "recommendation",
                lambda: recommend(
                    table,
                    target_loss=target,
                    demand_tokens=demand,
                    prompt_share=prompt_share,
                    unique_tokens=unique_tokens,
                    prices=prices,
                    costs="auto" if costs.source == "measured" or prices is not None else "flops",
                    fit=fitted,
                    extrapolation=extrapolation,
                    resampling=resampling,
                    seed=seed,
                ),
            )
    three = attempt(
        "approaches",
        lambda: approaches(
            table,
            law=law,
            objective=objective,
            delta=delta,
            counting=counting,
            bootstrap=bootstrap,
            seed=seed,
            fit=fitted,
        ),
    )
    pairs = matched_pairs(table, noise=loss_noise(table, fitted), serving=serving, costs=costs, counting=counting)
    if not pairs:
        absent["pairs"] = NO_PAIR
    if fitted is not None and budgets:
        pairs = (*pairs, fitted_pair(fitted, budgets[-1], train_flops, costs))
    return Study(
        table=table,
        curves=curves,
        fit=fitted,
        frontier=envelope,
        isoflop=bowls,
        train_flops=train_flops,
        budgets=optima,
        compute_ridge=compute_ridge(fitted, train_flops, budgets[0] * RIDGE_BELOW, budgets[-1] * RIDGE_ABOVE)
        if fitted and budgets
        else None,
        serving=serving,
        costs=costs,
        lifetime=owned,
        k_curve=_k_curve(fitted) if fitted else None,
        recommendation=advice,
        structure=structure,
        extrapolation=extrapolation,
        approaches=three,
        pairs=pairs,
        answer=put_in_words(
            fit=fitted,
            budgets=optima,
            isoflop=bowls,
            serving=serving,
            lifetime=owned,
            pairs=pairs,
            absent=absent,
            recommendation=advice,
            structure=structure,
        ),
        absent=absent,
    )


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


def _k_curve(fitted: Fit) -> KCurve:
    law = get_law(fitted.law)
    shape = law.shape(law.as_vector(fitted.params))
    return k_curve(float(shape.alpha), float(shape.beta))


def _lifetime(
    table: RunTable,
    fitted: Fit,
    costs: Costs,
    train_flops: TokenCost,
    budgets: list[float],
    target_loss: float | None,
    demand_tokens: float | None,
    unique_tokens: float | None,
) -> Lifetime:
    unique = np.inf if unique_tokens is None else unique_tokens
    if target_loss is None:
        law = surface(get_law(fitted.law), unique)
        params = law.as_vector(fitted.params)
        best = law.compute_optimum(params, budgets[-1] * TARGET_SHARE, train_flops.slope, train_flops.exponent, unique)
        target_loss = float(law.predict(params, *best, unique))
    sizes = np.unique(table.usable[fitted.counting].dropna().to_numpy(dtype=np.float64))
    return lifetime(
        fitted, costs, target_loss=target_loss, sizes=sizes, demand_tokens=demand_tokens, unique_tokens=unique
    )
