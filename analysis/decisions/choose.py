"""What a law answers to a question: the model to train and the model to own, for one law or for all its draws at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.decisions.search import cheapest, least_loss, surface, total_cost
from analysis.laws.base import Law
from analysis.optima.optimum import compute_optimum
from analysis.results import Array, Costs, Interval, Question, TokenCost


class Pick(NamedTuple):
    """A model, or one a draw; infinite where there is none."""

    n_params: Array
    n_tokens: Array
    loss: Array
    cost: Array
    """Training alone, or training and serving: as it was picked."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A question with all that its answer hangs on beside the law."""

    question: Question
    costs: Costs
    train_flops: TokenCost
    """FLOPs of a training token: what a compute budget is spent in."""
    sizes: Interval | None = None
    """Sizes that the limits allow, in the count of the costs; None: all."""

    @property
    def unique_tokens(self) -> float:
        return np.inf if self.question.unique_tokens is None else self.question.unique_tokens

    @property
    def demand_tokens(self) -> float:
        return self.question.demand_tokens or 0.0


def training_pick(setting: Setting, law: Law, params: Array) -> Pick:
    """The cheapest to train for a target loss, or the best that a compute budget or a budget of training alone buys."""
    law, unique = surface(law, setting.unique_tokens), setting.unique_tokens
    question, costs = setting.question, setting.costs
    if question.kind == "target_loss":
        n, d = cheapest(law, params, costs, question.value, 0.0, unique_tokens=unique, sizes=setting.sizes)
    elif question.kind == "compute":
        train = setting.train_flops
        # A draw without an effect of size or data has its optimum at 0 or infinity.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            n, _ = compute_optimum(law, params, question.value, train, unique)
            if setting.sizes is not None:
                # Along a compute budget the loss has one minimum in N: the nearest size allowed is the best allowed.
                n = np.clip(n, setting.sizes.lo, setting.sizes.hi)
            d = question.value / train(n)
    else:
        n, d = least_loss(law, params, costs, question.value, 0.0, unique_tokens=unique, sizes=setting.sizes)
    return _pick(setting, law, params, n, d, 0.0)


def lifetime_pick(setting: Setting, law: Law, params: Array) -> Pick:
    """The cheapest to own: at the target loss, at the loss that the compute budget reaches, or the best that a budget of
    training and serving buys."""
    law, unique = surface(law, setting.unique_tokens), setting.unique_tokens
    question, demand = setting.question, setting.demand_tokens
    if question.kind == "budget":
        n, d = least_loss(law, params, setting.costs, question.value, demand, unique_tokens=unique, sizes=setting.sizes)
    else:
        trained = training_pick(setting, law, params) if question.kind == "compute" else None
        loss = question.value if trained is None else trained.loss
        n, d = cheapest(law, params, setting.costs, loss, demand, unique_tokens=unique, sizes=setting.sizes)
        if trained is not None:
            # Where limits or repetition leave room for one model only, rounding may lose it: it is the one that was trained.
            lost = ~np.isfinite(n)
            n, d = np.where(lost, trained.n_params, n), np.where(lost, trained.n_tokens, d)
    return _pick(setting, law, params, n, d, demand)


def pick(setting: Setting, law: Law, params: Array) -> Pick:
    """The model to recommend: to own where there is a demand, else to train."""
    return lifetime_pick(setting, law, params) if setting.demand_tokens else training_pick(setting, law, params)


def _pick(setting: Setting, law: Law, params: Array, n: Array, d: Array, demand: float) -> Pick:
    known = np.isfinite(n) & np.isfinite(d)
    # A draw without an effect of size or data would have no parameter or no token: one of each is as near as a model comes.
    some_n, some_d = (np.maximum(np.where(known, value, 1.0), 1.0) for value in (n, d))
    loss = law.predict(params, some_n, some_d, setting.unique_tokens)
    cost = total_cost(setting.costs, some_n, some_d, demand)
    n, d, loss, cost = (np.where(known, value, np.inf) for value in (some_n, some_d, loss, cost))
    return Pick(n, d, loss, cost)
