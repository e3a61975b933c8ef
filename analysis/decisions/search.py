"""The two searches that decisions rest on: the least cost at a loss, and the least loss at a cost. All draws at once.

    minimise  D u(N) + D_inf s(N)   subject to   L(N, D) = l
    minimise  L(N, D)               subject to   D u(N) + D_inf s(N) = X

u and s are costs a token, training and serving, in FLOPs (6 N and 2 N give Sardana et al.'s equation 2) or measured. Either
leaves one unknown, ln N, in which the goal has one minimum: golden section finds it, inside any limits on N.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.laws.base import Law
from analysis.laws.repeating import with_repetition
from analysis.results import Array, Costs, Interval

#: The search runs from the smallest size that can reach the loss up to this many times it.
SEARCH_FACTOR = 1e6
#: Sizes between which the least loss at a budget is searched.
SIZES = Interval(lo=1.0, hi=1e22)
GOLDEN = (np.sqrt(5) - 1) / 2
#: Golden sections: 0.618^75 of ln 1e22 is below what doubles tell apart at a flat minimum.
SECTIONS = 75
BISECTIONS = 50


def surface(law: Law, unique_tokens: float) -> Law:
    """The law as decisions ask it: where tokens are scarce, one that ignores repetition is told of it (Muennighoff et al.)."""
    return law if unique_tokens == np.inf else with_repetition(law)


def total_cost(costs: Costs, n_params: Array | float, n_tokens: Array | float, demand_tokens: Array | float) -> Array:
    """Training and serving, in the costs' unit."""
    serve = np.where(np.asarray(demand_tokens) > 0, demand_tokens * costs.serve(n_params), 0.0)
    return np.asarray(n_tokens * costs.train(n_params) + serve)


def cheapest(
    law: Law,
    params: Array,
    costs: Costs,
    loss: Array | float,
    demand_tokens: Array | float,
    *,
    unique_tokens: float = np.inf,
    sizes: Interval | None = None,
) -> tuple[Array, Array]:
    """(N, D) of the least total cost at `loss`; params' leading axes broadcast with loss and demand. Infinite where no model
    of a size within `sizes` reaches the loss."""
    smallest = law.smallest_size(params, loss, unique_tokens)
    reachable = np.isfinite(smallest)
    shape = np.broadcast_shapes(np.shape(smallest), np.shape(demand_tokens))
    # A law without an effect of size would send N to 0: a model has a parameter at least.
    low = np.broadcast_to(np.log(np.where(reachable, np.maximum(smallest, SIZES.lo), 1.0)), shape).copy()
    high = low + np.log(SEARCH_FACTOR)
    if sizes is not None:
        # Sizes far above the law's smallest are searched as far up again.
        high = np.minimum(np.maximum(high, np.log(sizes.lo) + np.log(SEARCH_FACTOR)), np.log(sizes.hi))
        low = np.maximum(low, np.log(sizes.lo))

    def cost(log_n: Array) -> Array:
        n_params = np.exp(log_n)
        return total_cost(costs, n_params, law.tokens_for_loss(params, n_params, loss, unique_tokens), demand_tokens)

    # Infinite on the left only: at the smallest size no D is enough.
    n_params = np.exp(_golden(cost, low, high, ties_go_left=False))
    n_tokens = law.tokens_for_loss(params, n_params, loss, unique_tokens)
    known = np.broadcast_to(reachable, shape) & (low <= high) & np.isfinite(n_tokens)
    return np.where(known, n_params, np.inf), np.where(known, n_tokens, np.inf)


def least_loss(
    law: Law,
    params: Array,
    costs: Costs,
    budget: Array | float,
    demand_tokens: Array | float,
    *,
    unique_tokens: float = np.inf,
    sizes: Interval | None = None,
) -> tuple[Array, Array]:
    """(N, D) of the least loss when training and serving may cost `budget`; infinite where serving alone costs it at any
    size within `sizes`."""
    sizes = sizes or SIZES
    shape = np.broadcast_shapes(params.shape[:-1], np.shape(budget), np.shape(demand_tokens))
    low, high = (np.full(shape, np.log(edge)) for edge in (max(sizes.lo, SIZES.lo), min(sizes.hi, SIZES.hi)))

    def tokens(n_params: Array) -> Array:
        left = budget - np.asarray(demand_tokens) * costs.serve(n_params)
        return np.asarray(np.maximum(left, 0.0) / costs.train(n_params))

    def loss(log_n: Array) -> Array:
        n_params = np.exp(log_n)
        n_tokens = tokens(n_params)
        affordable = n_tokens > 0
        predicted = law.predict(params, n_params, np.where(affordable, n_tokens, 1.0), unique_tokens)
        return np.where(affordable, predicted, np.inf)

    # Infinite on the right only: large sizes cost the budget in serving.
    n_params = np.exp(_golden(loss, low, high, ties_go_left=True))
    n_tokens = tokens(n_params)
    known = n_tokens > 0
    return np.where(known, n_params, np.inf), np.where(known, n_tokens, np.inf)


def within(
    law: Law,
    params: Array,
    costs: Costs,
    loss: float,
    demand_tokens: Array | float,
    best: tuple[Array, Array],
    share: float,
    *,
    unique_tokens: float = np.inf,
    sizes: Interval | None = None,
) -> Array:
    """(lo, hi) on a last axis: the N whose cost at `loss` is at most 1 + `share` times that of `best`, by bisection."""
    n_best, d_best = (np.asarray(value, dtype=np.float64) for value in best)
    allowed = (1 + share) * total_cost(costs, n_best, d_best, demand_tokens)
    smallest = float(law.smallest_size(params, loss, unique_tokens))
    ends = np.full_like(n_best, np.log(max(smallest, SIZES.lo))), np.log(n_best) + np.log(SEARCH_FACTOR)
    if sizes is not None:
        ends = np.maximum(ends[0], np.log(sizes.lo)), np.minimum(ends[1], np.log(sizes.hi))
    edges = []
    for far in ends:
        inside, beyond = np.log(n_best), far
        for _ in range(BISECTIONS):
            middle = (inside + beyond) / 2
            n_params = np.exp(middle)
            n_tokens = law.tokens_for_loss(params, n_params, loss, unique_tokens)
            fine = total_cost(costs, n_params, n_tokens, demand_tokens) <= allowed
            inside, beyond = np.where(fine, middle, inside), np.where(fine, beyond, middle)
        edges.append(np.exp(inside))
    return np.stack(edges, axis=-1)


def _golden(goal: Callable[[Array], Array], low: Array, high: Array, *, ties_go_left: bool) -> Array:
    """The argument of the least `goal` between `low` and `high`, elementwise; ties are where both are infinite."""
    inner_low, inner_high = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    goal_low, goal_high = goal(inner_low), goal(inner_high)
    for _ in range(SECTIONS):
        left = (goal_low <= goal_high) if ties_go_left else (goal_low < goal_high)
        low, high = np.where(left, low, inner_low), np.where(left, inner_high, high)
        fresh = np.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        fresh_goal = goal(fresh)
        inner_low, inner_high = np.where(left, fresh, inner_high), np.where(left, inner_low, fresh)
        goal_low, goal_high = np.where(left, fresh_goal, goal_high), np.where(left, goal_low, fresh_goal)
    return np.asarray((low + high) / 2)
