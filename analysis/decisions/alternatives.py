"""What else could be done, and what it would cost: the model cheapest to train, other sizes, a forecast that goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from analysis.decisions.choose import Pick, Setting
from analysis.decisions.lifetime import break_even
from analysis.decisions.search import cheapest, surface, total_cost
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.results import Array, BreakEven, Fit, Regret
from analysis.runs.table import RunTable
from analysis.words import count

#: True demand over the forecast, for the regret.
FORECAST_ERRORS = (0.1, 1.0, 10.0)
#: What the search leaves of a cost that is the least.
ROUNDING = 1e-9


def saved(setting: Setting, law: Law, params: Array, best: Pick) -> float:
    """Share of its lifetime cost that the training-optimal model of the same loss would have cost on top."""
    n, d = cheapest(
        law, params, setting.costs, best.loss, 0.0, unique_tokens=setting.unique_tokens, sizes=setting.sizes
    )
    return float(1 - best.cost / total_cost(setting.costs, n, d, setting.demand_tokens))


def break_evens(
    table: RunTable, fit: Fit, setting: Setting, loss: float, sizes: Sequence[float]
) -> tuple[tuple[BreakEven, ...], list[str]]:
    """Between all the sizes named, or between neighbours among the measured ones; only sizes that can reach the loss, the named
    ones that can't in words."""
    law, unique = surface(get_law(fit.law), setting.unique_tokens), setting.unique_tokens
    measured = table.usable[fit.counting].dropna().to_numpy(dtype=np.float64)
    wanted = np.unique(np.array(sizes, dtype=np.float64) if len(sizes) else measured)
    able = np.isfinite(law.tokens_for_loss(law.as_vector(fit.params), wanted, loss, unique))
    skipped = [
        f"--size {count(float(size))} never reaches a loss of {loss:.4g} by the law: it has no break-even"
        for size in (wanted[~able] if len(sizes) else ())
    ]
    pairs = combinations(wanted[able], 2) if len(sizes) else pairwise(wanted[able])
    return tuple(
        break_even(fit, law, setting.costs, loss, float(small), float(large), unique_tokens=unique)
        for small, large in pairs
    ), skipped


def regret(fit: Fit, setting: Setting, law: Law, best: Pick) -> tuple[Regret, ...]:
    """The recommended size, paid for by the truth, over what the truth's own optimum costs, all at one loss.

    The size is the one recommended under every resampled law: it will have been trained when the truth is known. A law by which
    it never reaches the loss makes it infinitely dear.
    """
    costs, unique = setting.costs, setting.unique_tokens
    n_chosen = float(best.n_params)

    def extra(params: Array, demand: float) -> tuple[Array, Array]:
        n_best, d_best = cheapest(law, params, costs, best.loss, demand, unique_tokens=unique, sizes=setting.sizes)
        d_chosen = law.tokens_for_loss(params, n_chosen, best.loss, unique)
        known = np.isfinite(n_best)
        some_n, some_d = np.where(known, n_best, 1.0), np.where(known, d_best, 1.0)
        paid, due = total_cost(costs, n_chosen, d_chosen, demand), total_cost(costs, some_n, some_d, demand)
        # The search is exact to rounding: a forecast that comes true costs nothing more. A law that never reaches the loss has
        # no regret to tell.
        return n_best, np.where(known, np.where(paid / due - 1 > ROUNDING, paid / due - 1, 0.0), np.nan)

    regrets = []
    for factor in FORECAST_ERRORS:
        demand = factor * setting.demand_tokens
        n_best, share = extra(get_law(fit.law).as_vector(fit.params), demand)
        if not np.isfinite(share):
            continue
        ci95 = None if fit.draws_KP is None else interval(extra(fit.draws_KP, demand)[1])
        if ci95 is not None and np.isnan(ci95.lo):
            ci95 = None
        regrets.append(
            Regret(
                factor=factor,
                demand_tokens=demand,
                n_params_best=float(n_best),
                extra_cost=float(share),
                ci95=ci95,
            )
        )
    return tuple(regrets)
