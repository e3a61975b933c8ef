"""The cheapest model to own at one target loss, over a grid of demand, with bands (Sardana et al. 2024), by `search`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from analysis.decisions.search import cheapest, surface, total_cost, within
from analysis.intervals import band, interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.optima.optimum import is_model, outside
from analysis.results import (
    Array,
    BreakEven,
    Costs,
    Fit,
    Interval,
    KCurve,
    Lifetime,
    Optimum,
    Ridge,
    SizeLine,
)
from analysis.words import count, number
from llama.errors import UserError

GRID = 61
RIDGE_GRID = 40
#: Demands, as the serving cost of the training-optimal model over its training cost.
DEMAND_RANGE = (1e-2, 1e3)


def break_even_demand(costs: Costs, small: tuple[float, float], large: tuple[float, float]) -> float | None:
    """Tokens served from which (N, D) `small` is the cheaper to own; 0 where it is no dearer to train, None where it never is.

    In FLOPs: D_inf = 3 (N_s D_s - N_l D_l) / (N_l - N_s), Sardana et al., section 3.
    """
    demand = float(_break_even(costs, *(np.asarray(value) for value in (*small, *large))))
    return demand if np.isfinite(demand) else None


def _break_even(costs: Costs, n_small: Array, d_small: Array, n_large: Array, d_large: Array) -> Array:
    saved = costs.serve(n_large) - costs.serve(n_small)
    with np.errstate(invalid="ignore"):
        extra = d_small * costs.train(n_small) - d_large * costs.train(n_large)
    extra = np.where(np.isnan(extra), np.inf, extra)
    paid = np.maximum(extra, 0.0) / np.where(saved > 0, saved, 1.0)
    return np.asarray(np.where(saved > 0, paid, np.where(extra <= 0, 0.0, np.inf)))


def lifetime(
    fit: Fit,
    costs: Costs,
    *,
    target_loss: float,
    sizes: Array,
    demand_tokens: float | None = None,
    unique_tokens: float = np.inf,
) -> Lifetime:
    """The optimum over a grid of demand at one target loss, with bands from the fit's draws.

    Args:
        fit: of a law in the N that `costs` take.
        costs: of a token, in one unit.
        target_loss: nats a token.
        sizes: measured sizes, for cost lines and break-evens.
        demand_tokens: the demand to single out; None takes the one whose serving costs as much as training.
        unique_tokens: distinct tokens to train on; infinite: nothing repeats.

    Raises:
        UserError: the law never reaches the target loss, or reaches it with what is no model.
    """
    # Draws, and models far from any that was trained, may pass what a double holds: they count as infinite.
    with np.errstate(all="ignore"):
        return _lifetime(fit, costs, target_loss, sizes, demand_tokens, unique_tokens)


def _lifetime(
    fit: Fit, costs: Costs, target_loss: float, sizes: Array, demand_tokens: float | None, unique_tokens: float
) -> Lifetime:
    law = surface(get_law(fit.law), unique_tokens)
    params = law.as_vector(fit.params)
    if not np.isfinite(law.smallest_size(params, target_loss, unique_tokens)):
        raise UserError(out_of_reach(fit, law, target_loss, unique_tokens))
    if demand_tokens is not None and not (np.isfinite(demand_tokens) and demand_tokens >= 0):
        raise UserError(f"the demand is {demand_tokens} tokens (--demand); it must be a finite number, 0 or more")
    training_optimal = _optimum(fit, law, costs, target_loss, 0.0, unique_tokens)
    even = _even(training_optimal, costs)
    demand_G = np.geomspace(even * DEMAND_RANGE[0], even * DEMAND_RANGE[1], GRID)
    singled_out = even if demand_tokens is None else demand_tokens
    n_G, d_G = cheapest(law, params, costs, target_loss, demand_G, unique_tokens=unique_tokens)
    cost_G = total_cost(costs, n_G, d_G, demand_G)
    drawn = None
    if fit.draws_KP is not None:
        n_KG, d_KG = cheapest(law, fit.draws_KP[:, None, :], costs, target_loss, demand_G, unique_tokens=unique_tokens)
        drawn = n_KG, d_KG, np.where(np.isfinite(n_KG), total_cost(costs, n_KG, d_KG, demand_G), np.inf)
    lines = _lines(law, params, costs, target_loss, np.sort(sizes), demand_G, unique_tokens)
    return Lifetime(
        target_loss=target_loss,
        costs=costs,
        demand_tokens_G=demand_G,
        n_params=band(demand_G, n_G, drawn[0] if drawn else None),
        n_tokens=band(demand_G, d_G, drawn[1] if drawn else None),
        cost=band(demand_G, cost_G, drawn[2] if drawn else None),
        within_1pct_G2=within(law, params, costs, target_loss, demand_G, (n_G, d_G), 0.01, unique_tokens=unique_tokens),
        within_5pct_G2=within(law, params, costs, target_loss, demand_G, (n_G, d_G), 0.05, unique_tokens=unique_tokens),
        training_optimal=training_optimal,
        demand_tokens=singled_out,
        lifetime_optimal=_optimum(fit, law, costs, target_loss, singled_out, unique_tokens),
        sizes=lines,
        break_even=tuple(
            break_even(fit, law, costs, target_loss, small.n_params, large.n_params, unique_tokens=unique_tokens)
            for small, large in pairwise(lines)
        ),
        training_ridge=_ridge(fit, law, params, costs, 0.0, unique_tokens),
        lifetime_ridge=_ridge(fit, law, params, costs, singled_out, unique_tokens),
        extrapolated_G=np.array([bool(outside(fit, n, d)) for n, d in zip(n_G, d_G, strict=True)]),
    )


def _even(best: Optimum, costs: Costs) -> float:
    """The demand at which serving `best` costs as much as training it."""
    with np.errstate(all="ignore"):
        even = float(best.cost / costs.serve(best.n_params))
    if not (np.isfinite(even) and even > 0):
        raise UserError(
            f"training {count(best.n_params)} parameters costs {number(best.cost)} {best.unit} and serving a token "
            f"{number(float(costs.serve(best.n_params)))}: no demand can be named by that"
        )
    return even


def _optimum(fit: Fit, law: Law, costs: Costs, loss: float, demand_tokens: float, unique_tokens: float) -> Optimum:
    params = law.as_vector(fit.params)
    n_params, n_tokens = (
        float(value) for value in cheapest(law, params, costs, loss, demand_tokens, unique_tokens=unique_tokens)
    )
    if not is_model(n_params, n_tokens):
        raise UserError(
            f"the cheapest way to the target loss {loss:.4g} (--target-loss) is no model: by the law {fit.law} it has "
            f"{count(n_params)} parameters and {count(n_tokens)} tokens"
        )
    ci95 = None
    if fit.draws_KP is not None:
        n_K, d_K = cheapest(law, fit.draws_KP, costs, loss, demand_tokens, unique_tokens=unique_tokens)
        cost_K = np.where(np.isfinite(n_K), total_cost(costs, n_K, d_K, demand_tokens), np.inf)
        ci95 = {"n_params": interval(n_K), "n_tokens": interval(d_K), "cost": interval(cost_K)}
    return Optimum(
        n_params=n_params,
        n_tokens=n_tokens,
        loss=loss,
        cost=float(total_cost(costs, n_params, n_tokens, demand_tokens)),
        unit=costs.unit,
        ci95=ci95,
        outside_fitted_range=outside(fit, n_params, n_tokens),
    )


def _lines(
    law: Law, params: Array, costs: Costs, loss: float, sizes: Array, demand_G: Array, unique_tokens: float
) -> tuple[SizeLine, ...]:
    tokens = law.tokens_for_loss(params, sizes, loss, unique_tokens)
    able = np.isfinite(tokens)
    return tuple(
        SizeLine(n_params=float(n), n_tokens=float(d), cost_G=total_cost(costs, n, d, demand_G))
        for n, d in zip(sizes[able], tokens[able], strict=True)
    )


def break_even(
    fit: Fit, law: Law, costs: Costs, loss: float, small: float, large: float, *, unique_tokens: float = np.inf
) -> BreakEven:
    """The demand from which `small` is the cheaper of two sizes to own, both trained to `loss` by the fit's law."""
    d_small, d_large = law.tokens_for_loss(law.as_vector(fit.params), np.array([small, large]), loss, unique_tokens)
    ci95: Interval | None = None
    if fit.draws_KP is not None:
        n = np.array([small, large])
        d_K2 = law.tokens_for_loss(fit.draws_KP[:, None, :], n, loss, unique_tokens)
        ci95 = interval(_break_even(costs, n[0], d_K2[:, 0], n[1], d_K2[:, 1]))
    demand = break_even_demand(costs, (small, float(d_small)), (large, float(d_large)))
    return BreakEven(small=small, large=large, demand_tokens=demand, ci95=ci95)


def out_of_reach(fit: Fit, law: Law, loss: float, unique_tokens: float = np.inf) -> str:
    """Why the law never gives `loss`, with the limit and its interval."""
    limit = float(law.limit(law.as_vector(fit.params)))
    drawn = "" if fit.draws_KP is None else _to(interval(law.limit(fit.draws_KP)))
    if loss > limit and np.isfinite(unique_tokens):
        return (
            f"the target loss {loss:.4g} (--target-loss) is out of reach with {count(unique_tokens)} unique tokens "
            "(--unique-tokens): no number of repetitions gets there"
        )
    return (
        f"the target loss {loss:.4g} (--target-loss) is out of reach: the law's limit at infinite size and data is "
        f"{limit:.4g}{drawn}"
    )


def _to(values: Interval) -> str:
    return f" ({values.lo:.4g} to {values.hi:.4g})"


def _ridge(fit: Fit, law: Law, params: Array, costs: Costs, demand_tokens: float, unique_tokens: float) -> Ridge:
    losses = np.array([point.loss for point in fit.points])
    limit = float(law.limit(params))
    # A little past the measured losses on the better side, never below the law's limit.
    lowest = max(float(losses.min()) * 0.97, limit + 0.05 * (float(losses.min()) - limit))
    loss_G = np.linspace(lowest, float(losses.max()), RIDGE_GRID)
    n_G, d_G = cheapest(law, params, costs, loss_G, demand_tokens, unique_tokens=unique_tokens)
    return Ridge(loss_G=loss_G, n_params_G=n_G, n_tokens_G=d_G)


def k_curve(alpha: float, beta: float) -> KCurve:
    """k_D = (1 - (beta/alpha) (k_N^-alpha - 1))^(-1/beta), overhead k_N k_D - 1 (de Vries 2023, "Go smol or go home").

    `alpha` and `beta` are those of the law's `shape`: an outer power k leaves the curve alone.

    Raises:
        UserError: an exponent is not above 0, so that size or data gains nothing.
    """
    if not (0 < alpha < np.inf and 0 < beta < np.inf):
        raise UserError(f"the law's exponents are {number(alpha)} of N and {number(beta)} of D; both must be above 0")
    asymptote = (1 + alpha / beta) ** (-1 / alpha)
    k_n = np.geomspace(max(asymptote * 1.02, 0.02), 2.0, 200)
    room = 1 - beta / alpha * (k_n**-alpha - 1)
    k_d = np.where(room > 0, np.abs(room) ** (-1 / beta), np.inf)
    return KCurve(k_n_G=k_n, k_d_G=k_d, overhead_G=k_n * k_d - 1, asymptote=float(asymptote))
