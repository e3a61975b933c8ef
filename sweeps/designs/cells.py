"""The cells of a size: the union of what the parts of `budgets` want of it, at each learning rate and seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llama.accounting import count_parameters
from llama.config import ModelConfig, Recipe, RunConfig
from llama.errors import UserError
from llama.recipes import make_recipe
from sweeps.designs.budgets import BudgetUnit, ByHand, Wanted
from sweeps.designs.numerics import Numerics
from sweeps.designs.run_configs import CorpusFacts, run_config, too_short
from sweeps.designs.spec import SweepSpec

#: How a budget reads in a run's name: `w32-C3.2e11-s0`, `w32-D4e6-s0`, `w32-R20-s0`.
_BUDGET_LETTER: dict[BudgetUnit, str] = {"flops": "C", "tokens": "D", "tokens_per_parameter": "R"}

#: Which of several units names a cell that two parts have in common: compute first, since isoFLOP bowls group by it.
_NAMING_ORDER: tuple[BudgetUnit, ...] = ("flops", "tokens_per_parameter", "tokens")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A size at a length and a learning rate."""

    name: str
    """`w32-C3.2e11`, or `w32-lr2-C3.2e11`."""
    budget: str
    """`C3.2e11`."""
    lr_multiplier: float
    flops_budget: float | None
    """The declared compute budget, where one declares it."""
    tokens: int
    """Of the budget that names it, before rounding to whole batches."""
    config: RunConfig
    """Of the first seed, without a parent."""
    parts_by_seed: dict[int, tuple[int, ...]]
    """Every seed it is run at, and the parts (by place in `budgets`) that want it."""


class LeftOut(NamedTuple):
    """A cell of a part that is not run, and why."""

    name: str
    reason: str
    part: int


class _Asked(NamedTuple):
    """One wish of one part, at one learning rate."""

    part: int
    wanted: Wanted
    lr_multiplier: float
    name: str
    tokens: int


def make_cells(
    spec: SweepSpec, corpus: CorpusFacts, numerics: Numerics, size: str, model: ModelConfig
) -> tuple[list[Cell], list[LeftOut]]:
    """The cells of one size that make sense, by learning rate and then shortest first; and the others.

    Two parts that come to the same run have it in common. What is left out of one part and run for another is run.

    Raises:
        UserError: two budgets of one part come to the same run.
    """
    asked, left_out = _within_limits(spec, size, model)
    stated = spec.reference_tokens(model)
    horizon = max(1, stated) if stated is not None else max((ask.tokens for ask in asked), default=0)
    together: dict[tuple[float, int, Recipe], list[_Asked]] = {}
    for ask in asked:
        recipe = make_recipe(
            spec.recipe.name,
            model,
            horizon if spec.has_trunks else ask.tokens,
            spec.recipe,
            lr_multiplier=ask.lr_multiplier,
        )
        steps = round(ask.tokens / (recipe.batch_sequences * model.context_length))
        if steps < 1:
            batch = f"{recipe.batch_sequences} x {model.context_length:,}"
            left_out.append(LeftOut(ask.name, f"{ask.tokens:,} tokens are less than half a batch of {batch}", ask.part))
            continue
        together.setdefault((ask.lr_multiplier, steps, recipe), []).append(ask)
    _refuse_twins(spec, size, model, together)
    cells = []
    for (multiplier, steps, recipe), asks in together.items():
        config = run_config(spec, corpus, numerics, model, recipe, steps, spec.seeds.base[0])
        reason = too_short(config)
        if reason:
            left_out += [LeftOut(ask.name, reason, ask.part) for ask in asks]
        else:
            cells.append(_cell(spec, size, model, multiplier, config, asks))
    run = {cell.name for cell in cells}
    return cells, [out for out in left_out if out.name not in run]


def _within_limits(spec: SweepSpec, size: str, model: ModelConfig) -> tuple[list[_Asked], list[LeftOut]]:
    """What the parts want, in one order whatever the order of the parts; and what their limits leave out."""
    n_params = count_parameters(model).n_params
    asked, left_out = [], []
    rates = spec.recipe.lr_multipliers
    for index, part in enumerate(spec.parts):
        for wanted in part.wanted(size, model.d_model):
            tokens = wanted.tokens(model)
            reason = part.outside_limits(tokens / n_params) if tokens else "the budget buys no token"
            for multiplier in rates if wanted.lr_multiplier is None else [wanted.lr_multiplier]:
                name = cell_name(rate_label(size, multiplier), wanted.unit, wanted.budget)
                if reason:
                    left_out.append(LeftOut(name, reason, index))
                else:
                    asked.append(_Asked(index, wanted, multiplier, name, tokens))
    places = {multiplier: place for place, multiplier in enumerate(rates)}
    asked.sort(key=lambda ask: (places.get(ask.lr_multiplier, len(places)), ask.lr_multiplier, ask.tokens))
    return asked, left_out


def _refuse_twins(
    spec: SweepSpec, size: str, model: ModelConfig, together: dict[tuple[float, int, Recipe], list[_Asked]]
) -> None:
    """Two budgets of one part must not come to one length."""
    seen: dict[tuple[int, float, int], float] = {}
    for (multiplier, steps, recipe), asks in together.items():
        for ask in asks:
            budget = ask.wanted.budget
            first = seen.setdefault((ask.part, multiplier, steps), budget)
            if first != budget:
                part = spec.parts[ask.part]
                place = "budgets" if len(spec.parts) == 1 else f"budgets[{ask.part}]"
                raise UserError(
                    f"{place}.{'cells' if isinstance(part, ByHand) else part.unit}: {first:g} and {budget:g} both come to "
                    f"{steps:,} steps of {recipe.batch_sequences * model.context_length:,} tokens at {size}: drop one, move "
                    "them apart, or set a smaller recipe.batch_tokens"
                )


def _cell(
    spec: SweepSpec, size: str, model: ModelConfig, multiplier: float, config: RunConfig, asks: list[_Asked]
) -> Cell:
    ordered = sorted(asks, key=lambda ask: (_NAMING_ORDER.index(ask.wanted.unit), ask.wanted.budget))
    naming = ordered[0]
    parts_by_seed: dict[int, dict[int, None]] = {}
    for ask in ordered:
        for seed in spec.seeds_for(size, model.d_model, ask.wanted):
            parts_by_seed.setdefault(seed, {})[ask.part] = None
    return Cell(
        name=naming.name,
        budget=budget_label(naming.wanted.unit, naming.wanted.budget),
        lr_multiplier=multiplier,
        flops_budget=naming.wanted.budget if naming.wanted.unit == "flops" else None,
        tokens=naming.tokens,
        config=config,
        parts_by_seed={seed: tuple(sorted(parts)) for seed, parts in parts_by_seed.items()},
    )


def rate_label(size: str, multiplier: float) -> str:
    return size if multiplier == 1 else f"{size}-lr{multiplier:g}"


def cell_name(size: str, unit: BudgetUnit, budget: float) -> str:
    """A size at a budget, as runs are called: `w32-C3.2e11`."""
    return f"{size}-{budget_label(unit, budget)}"


def budget_label(unit: BudgetUnit, budget: float) -> str:
    return f"{_BUDGET_LETTER[unit]}{_short(budget)}"


def _short(value: float) -> str:
    """A number as short as names want it: 1e11, 3.2e11, 20, 0.5."""
    if 1e-3 <= value < 1e5:
        return f"{value:.12g}"
    mantissa, exponent = f"{value:.12e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
