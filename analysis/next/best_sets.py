"""Candidates to make next: one by one by what each gives for its cost, or the best set that is found within a sum."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice, product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array
from analysis.next.narrowing import Goal, Narrowing

#: A run that takes less than this share of what is left tells nothing that a person would wait for, however cheap.
LEAST_SHARE = 0.01
#: Powers of cost that greedy sets are ranked by: gain alone, half way, and gain for its cost.
POWERS = (0.0, 0.5, 1.0)
#: Exchanges that the best greedy set is bettered by at most; they end by themselves before.
EXCHANGES = 30
#: Exchanges that are weighed at once, of one run before those of two: hundreds of candidates allow more than help.
MOST_SETS = 4_000
#: Room for rounding in a sum of costs.
ROUNDING = 1 + 1e-12


def best_for_cost(narrowing: Narrowing, goal: Goal, cost_m: Array, runs: int) -> NDArray[np.intp]:
    """At most so many candidates, in order: each is the one with the most for its cost given those before it.

    What takes less than `LEAST_SHARE` of what is left is never named.
    """
    return np.array(_greedy(narrowing, goal, cost_m, 1.0, runs=runs, least=LEAST_SHARE), dtype=np.intp)


def best_within(narrowing: Narrowing, goal: Goal, cost_m: Array, spend: float) -> NDArray[np.intp]:
    """The best set found whose cost is within `spend`, those with the most for their cost first.

    The best of three greedy sets, by gain over cost^0, ^1/2 and ^1: of set functions of falling gains the better of the
    outer two is at least 0.316 of the best set (Khuller, Moss and Naor 1999; Leskovec et al. 2007), which either alone is
    not. Then it is exchanged run by run (Fedorov 1972, chapter 3) as long as that helps: one dropped, one added, one for
    another, one for two. Greedy sets start with crumbs; it takes an exchange to trade them for one dear run.
    """
    sets = [_greedy(narrowing, goal, cost_m, power, spend=spend) for power in POWERS]
    left_s = narrowing.left_by_sets(goal, np.stack([_mask(cost_m, chosen) for chosen in sets]))
    best = _exchanged(narrowing, goal, cost_m, sets[int(np.argmin(left_s))], spend)
    return np.array(_greedy(narrowing, goal, cost_m, 1.0, among=best), dtype=np.intp)


def _greedy(
    narrowing: Narrowing,
    goal: Goal,
    cost_m: Array,
    power: float,
    *,
    runs: int | None = None,
    spend: float = np.inf,
    least: float = 0.0,
    among: list[int] | None = None,
) -> list[int]:
    """Runs by gain over cost^power, while one gives more than `least` of what is left; of `among`, all are put in order."""
    open_m = np.ones(len(cost_m), dtype=np.bool_) if among is None else _mask(cost_m, among)
    chosen: list[int] = []
    left = 1.0
    while len(chosen) < (len(cost_m) if runs is None else runs):
        rows = np.flatnonzero(open_m & (cost_m <= (spend - cost_m[chosen].sum()) * ROUNDING)).tolist()
        if not rows:
            break
        left_m = narrowing.left_by_sets(goal, np.stack([_mask(cost_m, [*chosen, row]) for row in rows]))
        gain_m = 1 - left_m / left
        if among is None and gain_m.max() <= least:
            break
        # In a set that is to be put in order, runs may do harm until others are made: less of it the cheaper they are.
        harm_m = np.minimum(gain_m - least, 0.0) * cost_m[rows] ** power
        rank_m = np.where(gain_m > least, gain_m / cost_m[rows] ** power, harm_m)
        best = int(np.argmax(rank_m))
        chosen.append(rows[best])
        open_m[rows[best]] = False
        left = float(left_m[best])
    return chosen


def _exchanged(narrowing: Narrowing, goal: Goal, cost_m: Array, chosen: list[int], spend: float) -> list[int]:
    left = narrowing.left(goal, np.array(chosen, dtype=np.intp))
    for _ in range(EXCHANGES):
        moved = list(islice(_neighbours(cost_m, chosen, spend), MOST_SETS))
        if not moved:
            break
        left_s = narrowing.left_by_sets(goal, np.stack([_mask(cost_m, other) for other in moved]))
        best = int(np.argmin(left_s))
        if left_s[best] >= left * (1 - 1e-6):
            break
        chosen, left = moved[best], float(left_s[best])
    return chosen


def _neighbours(cost_m: Array, chosen: list[int], spend: float) -> Iterator[list[int]]:
    """Sets within `spend` that differ by a run dropped, added or exchanged, or by two that make way for one dearer."""
    free = spend * ROUNDING - float(cost_m[chosen].sum())
    others = [row for row in range(len(cost_m)) if row not in chosen]
    yield from ([row for row in chosen if row != out] for out in chosen)
    yield from ([*chosen, row] for row in others if cost_m[row] <= free)
    for out, row in product(chosen, others):
        if cost_m[row] <= free + cost_m[out]:
            yield [*(kept for kept in chosen if kept != out), row]
    for (a, b), row in product(combinations(chosen, 2), others):
        if free + max(cost_m[a], cost_m[b]) < cost_m[row] <= free + cost_m[a] + cost_m[b]:
            yield [*(kept for kept in chosen if kept not in (a, b)), row]


def _mask(cost_m: Array, chosen: list[int]) -> NDArray[np.bool_]:
    mask = np.zeros(len(cost_m), dtype=np.bool_)
    mask[chosen] = True
    return mask
