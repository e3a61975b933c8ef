"""A question about a family of models, checked, and with all that its answer hangs on beside the law: `ask`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np

from analysis.decisions.choose import Setting
from analysis.decisions.costs import Prices, decide_costs, training_flops
from analysis.decisions.limits import Bound, Limits, allowed, bounds
from analysis.decisions.reach import OPTIONS
from analysis.decisions.serving import measure_serving
from analysis.laws import get_law
from analysis.results import Fit, Question, Serving
from analysis.runs.table import RunTable
from llama.errors import UserError


def ask(
    table: RunTable,
    fitted: Fit,
    *,
    kind: Literal["compute", "target_loss", "budget"],
    value: float,
    costs: Literal["auto", "flops", "measured"],
    prices: Prices,
    limits: Limits,
    demand_tokens: float | None,
    prompt_share: float | None,
    unique_tokens: float | None,
) -> tuple[Callable[..., Setting], tuple[Bound, ...]]:
    """The question to `table`'s family, as a function of the counting rule, and the bounds that the limits come to."""
    if kind == "budget" and costs == "auto" and prices.price_per_hour is None:
        costs = "flops"
    found = bounds(
        limits,
        table,
        measured(table, "n_params", prompt_share) if limits.tpot_seconds is not None else None,
        unique_tokens=unique_tokens,
        law_repeats=get_law(fitted.law).uses_unique_tokens,
    )
    setting = _settings(
        table,
        kind,
        value,
        found,
        costs=costs,
        prices=prices,
        demand_tokens=demand_tokens,
        prompt_share=prompt_share,
        unique_tokens=unique_tokens,
    )
    return setting, found


def _settings(
    table: RunTable,
    kind: Literal["compute", "target_loss", "budget"],
    value: float,
    found: tuple[Bound, ...],
    *,
    costs: Literal["auto", "flops", "measured"],
    prices: Prices,
    demand_tokens: float | None,
    prompt_share: float | None,
    unique_tokens: float | None,
) -> Callable[..., Setting]:
    """The question in a counting rule, within all the bounds found unless others are named."""

    @cache
    def setting(rule: str, within_bounds: tuple[Bound, ...] = found) -> Setting:
        train = training_flops(table, counting=rule)
        decided = decide_costs(
            table,
            train_flops=train,
            serving=None if costs == "flops" else measured(table, rule, prompt_share, must=costs == "measured"),
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

    return setting


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
            "ask one question: --compute (or --target-flops), --target-loss or --budget; "
            f"{given} {'were' if asked else 'was'} given"
        )
    kind, value = asked[0]
    if not (np.isfinite(value) and value > 0):
        option = "--compute (or --target-flops)" if kind == "compute" else OPTIONS[kind]
        raise UserError(f"{option} is {value:g}; it must be above 0 and finite")
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


def measured(table: RunTable, counting: str, prompt_share: float | None, *, must: bool = False) -> Serving | None:
    try:
        return measure_serving(table, counting=counting, prompt_share=prompt_share)
    except UserError:
        if must:
            raise
        return None
