"""What a better choice is worth, and so when to stop: the expected value of the runs' information against their cost.

Were the choice made today and resample k the truth, the model of today's size would reach the loss of k's own optimum at a
cost of (1 + waste_k) times the least. The mean of the waste over resamples is the expected value of perfect information
(Raiffa and Schlaifer 1961, chapters 4 and 5). About the optimum the waste goes as the square of the error of ln N, so that
runs which leave a share `left` of ln N's variance are expected to save 1 - left of it, on the whole cost of the target. Runs
that cost more than they save are not worth making; and where even all candidates together save less than a thousandth of the
target's cost, more runs will not change the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.decisions.choose import Pick, Setting
from analysis.decisions.search import surface, total_cost
from analysis.laws.base import Law
from analysis.results import Array
from analysis.results.next_runs import Stop
from analysis.words import seconds

#: Share of the target's cost below which no saving is worth the wait.
TOLERANCE = 1e-3
#: Most that a choice wastes: a model that can't get there at all is trained again at another size.
MOST_WASTE = 1.0


def expected_waste(setting: Setting, law: Law, params_KP: Array, drawn: Pick, size: float) -> float:
    """Mean share of the least cost that a model of today's `size` would pay on top to reach each resample's own loss."""
    law = surface(law, setting.unique_tokens)
    demand = setting.demand_tokens
    known = np.isfinite(drawn.n_params) & np.isfinite(drawn.loss)
    with np.errstate(all="ignore"):
        tokens_K = law.tokens_for_loss(params_KP, size, drawn.loss, setting.unique_tokens)
        best_K = total_cost(setting.costs, drawn.n_params, drawn.n_tokens, demand)
        waste_K = total_cost(setting.costs, np.full(len(params_KP), size), tokens_K, demand) / best_K - 1
    waste_K = np.clip(np.where(np.isfinite(waste_K), waste_K, MOST_WASTE), 0.0, MOST_WASTE)
    return float(np.mean(np.where(known, waste_K, MOST_WASTE)))


def when_to_stop(
    *,
    waste: float,
    target_cost: float,
    left_by_all: float,
    savings: Sequence[float],
    spent: Sequence[float],
    unit: str,
) -> Stop:
    """The verdict on a batch.

    Args:
        waste: `expected_waste`.
        target_cost: of today's choice.
        left_by_all: share of ln N's variance that would be left were all candidates made.
        savings, spent: after each run of the batch, in `unit`.
    """
    saving_of_all = target_cost * waste * (1 - left_by_all)
    net = [saving - cost for saving, cost in zip(savings, spent, strict=True)]
    worth = int(np.argmax(net)) + 1 if net and max(net) > 0 else 0

    def show(cost: float) -> str:
        return seconds(cost, unit)

    about = (
        f"decided today, the choice is expected to cost {waste:.2%} too much ({show(target_cost * waste)} of "
        f"{show(target_cost)}), and all candidates together would save {show(saving_of_all)} of that"
    )
    if saving_of_all < TOLERANCE * target_cost:
        words = (
            f"More runs will not change the choice: {about}, less than {TOLERANCE:.1%} of the target's cost. Stop here."
        )
        worth = 0
    elif worth:
        words = (
            f"Make the first {worth} of these runs, then ask again: {about}; these runs are expected to save "
            f"{show(savings[worth - 1])} for {show(spent[worth - 1])}."
            if worth > 1
            else f"Make the first of these runs, then ask again: {about}; it is expected to save {show(savings[0])} for "
            f"{show(spent[0])}."
        )
    else:
        words = (
            f"No run of this batch pays for itself: {about}, and the first costs {show(spent[0]) if spent else 'more'}."
        )
    return Stop(
        enough=worth == 0,
        worth=worth,
        target_cost=target_cost,
        waste=waste,
        saving_of_all=saving_of_all,
        words=words,
    )
