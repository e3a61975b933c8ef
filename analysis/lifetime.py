"""The cheapest model to own: training and serving together, for a target loss and a demand (Sardana et al. 2024).

    minimise  D u(N) + D_inf s(N)   subject to   L(N, D) = l

u and s are costs a token, training and serving, in FLOPs (6 N and 2 N give Sardana's equation 2) or measured. The law gives the
D at which N reaches l, which leaves one unknown: ln N, found by golden section for all draws and demands at once.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from analysis.fitting import interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.optimum import outside
from analysis.results import (
    Array,
    Band,
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
from llama.errors import UserError

#: The search runs from the smallest size that can reach the loss up to this many times it.
SEARCH_FACTOR = 1e6
GOLDEN = (np.sqrt(5) - 1) / 2
#: Golden sections: 0.618^75 of ln 1e6 is below what doubles tell apart at a flat minimum.
SECTIONS = 75
BISECTIONS = 50
GRID = 61
RIDGE_GRID = 40
#: Demands, as the serving cost of the training-optimal model over its training cost.
DEMAND_RANGE = (1e-2, 1e3)


def total_cost(costs: Costs, n_params: Array | float, n_tokens: Array | float, demand_tokens: Array | float) -> Array:
    """Training and serving, in the costs' unit."""
    serve = np.where(np.asarray(demand_tokens) > 0, demand_tokens * costs.serve(n_params), 0.0)
    return np.asarray(n_tokens * costs.train(n_params) + serve)


def cheapest(
    law: Law, params: Array, costs: Costs, loss: Array | float, demand_tokens: Array | float
) -> tuple[Array, Array]:
    """(N, D) of the least total cost at `loss`; params' leading axes broadcast with loss and demand. Infinite where no model
    reaches the loss."""
    smallest = law.smallest_size(params, loss)
    reachable = np.isfinite(smallest)
    shape = np.broadcast_shapes(np.shape(smallest), np.shape(demand_tokens))
    low = np.broadcast_to(np.log(np.where(reachable, smallest, 1.0)), shape).copy()
    high = low + np.log(SEARCH_FACTOR)

    def cost(log_n: Array) -> Array:
        n_params = np.exp(log_n)
        return total_cost(costs, n_params, law.tokens_for_loss(params, n_params, loss), demand_tokens)

    inner_low, inner_high = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    cost_low, cost_high = cost(inner_low), cost(inner_high)
    for _ in range(SECTIONS):
        # Infinite on the left only: at the smallest size no D is enough.
        left = cost_low < cost_high
        low, high = np.where(left, low, inner_low), np.where(left, inner_high, high)
        fresh = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        fresh_cost = cost(fresh)
        inner_low, inner_high = np.where(left, fresh, inner_high), np.where(left, inner_low, fresh)
        cost_low, cost_high = np.where(left, fresh_cost, cost_high), np.where(left, cost_low, fresh_cost)
    n_params = np.exp((low + high) / 2)
    n_tokens = law.tokens_for_loss(params, n_params, loss)
    known = np.broadcast_to(reachable, shape)
    return np.where(known, n_params, np.inf), np.where(known, n_tokens, np.inf)


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
    fit: Fit, costs: Costs, *, target_loss: float, sizes: Array, demand_tokens: float | None = None
) -> Lifetime:
    """The optimum over a grid of demand at one target loss, with bands from the fit's draws.

    Args:
        fit: of a law in the N that `costs` take.
        costs: of a token, in one unit.
        target_loss: nats a token.
        sizes: measured sizes, for cost lines and break-evens.
        demand_tokens: the demand to single out; None takes the one whose serving costs as much as training.

    Raises:
        UserError: the law never reaches the target loss.
    """
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    if not np.isfinite(law.smallest_size(params, target_loss)):
        raise UserError(f"the target loss {target_loss:.4g} is out of reach: the law's limit is {fit.params['E']:.4g}")
    if demand_tokens is not None and not (np.isfinite(demand_tokens) and demand_tokens >= 0):
        raise UserError(f"the demand is {demand_tokens} tokens; it must be 0 or more")
    training_optimal = _optimum(fit, law, costs, target_loss, 0.0)
    even = training_optimal.cost / float(costs.serve(training_optimal.n_params))
    demand_G = np.geomspace(even * DEMAND_RANGE[0], even * DEMAND_RANGE[1], GRID)
    singled_out = even if demand_tokens is None else demand_tokens
    n_G, d_G = cheapest(law, params, costs, target_loss, demand_G)
    cost_G = total_cost(costs, n_G, d_G, demand_G)
    drawn = None
    if fit.draws_KP is not None:
        n_KG, d_KG = cheapest(law, fit.draws_KP[:, None, :], costs, target_loss, demand_G)
        with np.errstate(invalid="ignore"):
            drawn = n_KG, d_KG, np.where(np.isfinite(n_KG), total_cost(costs, n_KG, d_KG, demand_G), np.inf)
    lines, break_even = _sizes(fit, law, costs, target_loss, np.sort(sizes), demand_G)
    return Lifetime(
        target_loss=target_loss,
        costs=costs,
        demand_tokens_G=demand_G,
        n_params=_band(demand_G, n_G, drawn[0] if drawn else None),
        n_tokens=_band(demand_G, d_G, drawn[1] if drawn else None),
        cost=_band(demand_G, cost_G, drawn[2] if drawn else None),
        within_1pct_G2=_within(law, params, costs, target_loss, demand_G, n_G, cost_G * 1.01),
        within_5pct_G2=_within(law, params, costs, target_loss, demand_G, n_G, cost_G * 1.05),
        training_optimal=training_optimal,
        demand_tokens=singled_out,
        lifetime_optimal=_optimum(fit, law, costs, target_loss, singled_out),
        sizes=lines,
        break_even=break_even,
        training_ridge=_ridge(fit, law, params, costs, 0.0),
        lifetime_ridge=_ridge(fit, law, params, costs, singled_out),
        extrapolated_G=np.array([bool(outside(fit, n, d)) for n, d in zip(n_G, d_G, strict=True)]),
    )


def _optimum(fit: Fit, law: Law, costs: Costs, loss: float, demand_tokens: float) -> Optimum:
    n_params, n_tokens = (
        float(value) for value in cheapest(law, law.as_vector(fit.params), costs, loss, demand_tokens)
    )
    ci95 = None
    if fit.draws_KP is not None:
        n_K, d_K = cheapest(law, fit.draws_KP, costs, loss, demand_tokens)
        with np.errstate(invalid="ignore"):
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


def _band(x_G: Array, mid_G: Array, drawn_KG: Array | None) -> Band:
    if drawn_KG is None:
        nothing = np.full(len(x_G), np.nan)
        return Band(x_G=x_G, mid_G=mid_G, lo_G=nothing, hi_G=nothing)
    # Order statistics, since some draws may not reach the loss at all: those are infinite.
    lo, hi = np.quantile(drawn_KG, [0.025, 0.975], axis=0, method="nearest")
    return Band(x_G=x_G, mid_G=mid_G, lo_G=lo, hi_G=hi)


def _within(law: Law, params: Array, costs: Costs, loss: float, demand_G: Array, n_G: Array, allowed_G: Array) -> Array:
    """(lo, hi) of N whose cost stays within `allowed_G`, by bisection on either side of the optimum."""
    smallest = float(law.smallest_size(params, loss))
    edges = []
    for far in (np.full_like(n_G, np.log(smallest)), np.log(n_G) + np.log(SEARCH_FACTOR)):
        inside, beyond = np.log(n_G), far
        for _ in range(BISECTIONS):
            middle = (inside + beyond) / 2
            n_params = np.exp(middle)
            cost = total_cost(costs, n_params, law.tokens_for_loss(params, n_params, loss), demand_G)
            inside, beyond = np.where(cost <= allowed_G, middle, inside), np.where(cost <= allowed_G, beyond, middle)
        edges.append(np.exp(inside))
    return np.stack(edges, axis=1)


def _sizes(
    fit: Fit, law: Law, costs: Costs, loss: float, sizes: Array, demand_G: Array
) -> tuple[tuple[SizeLine, ...], tuple[BreakEven, ...]]:
    tokens = law.tokens_for_loss(law.as_vector(fit.params), sizes, loss)
    able = np.isfinite(tokens)
    lines = tuple(
        SizeLine(n_params=float(n), n_tokens=float(d), cost_G=total_cost(costs, n, d, demand_G))
        for n, d in zip(sizes[able], tokens[able], strict=True)
    )
    pairs = []
    for small, large in pairwise(lines):
        ci95: Interval | None = None
        if fit.draws_KP is not None:
            n = np.array([small.n_params, large.n_params])
            d_K2 = law.tokens_for_loss(fit.draws_KP[:, None, :], n, loss)
            ci95 = interval(_break_even(costs, n[0], d_K2[:, 0], n[1], d_K2[:, 1]))
        demand = break_even_demand(costs, (small.n_params, small.n_tokens), (large.n_params, large.n_tokens))
        pairs.append(BreakEven(small=small.n_params, large=large.n_params, demand_tokens=demand, ci95=ci95))
    return lines, tuple(pairs)


def _ridge(fit: Fit, law: Law, params: Array, costs: Costs, demand_tokens: float) -> Ridge:
    losses = np.array([point.loss for point in fit.points])
    # A little past the measured losses on the better side, never below the law's limit.
    lowest = max(float(losses.min()) * 0.97, fit.params["E"] + 0.05 * (float(losses.min()) - fit.params["E"]))
    loss_G = np.linspace(lowest, float(losses.max()), RIDGE_GRID)
    n_G, d_G = cheapest(law, params, costs, loss_G, demand_tokens)
    return Ridge(loss_G=loss_G, n_params_G=n_G, n_tokens_G=d_G)


def k_curve(alpha: float, beta: float) -> KCurve:
    """k_D = (1 - (beta/alpha) (k_N^-alpha - 1))^(-1/beta), overhead k_N k_D - 1 (de Vries 2023, "Go smol or go home")."""
    asymptote = (1 + alpha / beta) ** (-1 / alpha)
    k_n = np.geomspace(max(asymptote * 1.02, 0.02), 2.0, 200)
    room = 1 - beta / alpha * (k_n**-alpha - 1)
    k_d = np.where(room > 0, np.abs(room) ** (-1 / beta), np.inf)
    return KCurve(k_n_G=k_n, k_d_G=k_d, overhead_G=k_n * k_d - 1, asymptote=float(asymptote))
