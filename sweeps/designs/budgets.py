"""`budgets`: how long each size trains. A block in one unit, cells by hand, or a list of such parts, which a sweep unites.

The unit makes the design: compute shared by the sizes is an isoFLOP profile (Hoffmann et al. 2022, approach 2), tokens are a
grid, tokens a parameter a ladder. With the wsd schedule every cell is a branch off its size's trunk, whatever its part.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import Config, ModelConfig, PositiveFloat
from sweeps.yaml_lines import refuse, repeated

BudgetUnit = Literal["flops", "tokens", "tokens_per_parameter"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
#: Beyond any budget that can be meant: the largest runs take some 1e26 FLOPs and 1e14 tokens.
MOST: dict[str, float] = {"flops": 1e30, "tokens": 1e18, "tokens_per_parameter": 1e9}
Flops = Annotated[float, Field(gt=0, le=MOST["flops"], allow_inf_nan=False)]
Tokens = Annotated[int, Field(gt=0, le=int(MOST["tokens"]))]
TokensPerParameter = Annotated[float, Field(gt=0, le=MOST["tokens_per_parameter"], allow_inf_nan=False)]
DesignKind = Literal["isoflop", "grid", "ladder", "by_hand"]

_KIND_OF_UNIT: dict[BudgetUnit, DesignKind] = {"flops": "isoflop", "tokens": "grid", "tokens_per_parameter": "ladder"}


def budget_tokens(unit: BudgetUnit, budget: float, model: ModelConfig) -> int:
    """Training tokens that a declared budget buys a model, before rounding to whole batches."""
    if unit == "flops":
        return round(budget / training_flops_per_token(model))
    if unit == "tokens":
        return round(budget)
    return round(budget * count_parameters(model).n_params)


class Wanted(NamedTuple):
    """A budget that a part wants of a size. None: the seeds, or the learning-rate multipliers, of the sweep."""

    unit: BudgetUnit
    budget: float
    seed: int | None = None
    lr_multiplier: float | None = None

    def tokens(self, model: ModelConfig) -> int:
        return budget_tokens(self.unit, self.budget, model)


class OneBudget(Config):
    """A single budget with its unit."""

    flops: Flops | None = None
    tokens: Tokens | None = None
    tokens_per_parameter: TokensPerParameter | None = None

    @model_validator(mode="after")
    def _check(self) -> OneBudget:
        _the_unit(self)
        return self

    @property
    def unit(self) -> BudgetUnit:
        return _the_unit(self)

    @property
    def value(self) -> float:
        return float(getattr(self, self.unit))


class Budgets(Config):
    """The same budgets for every size, in exactly one unit."""

    flops: Annotated[list[Flops], Field(min_length=1)] | None = None
    """Training FLOPs, shared by the sizes, so that isoFLOP bowls exist: tokens = budget / FLOPs a token of the size."""
    tokens: Annotated[list[Tokens], Field(min_length=1)] | None = None
    """Training tokens."""
    tokens_per_parameter: Annotated[list[TokensPerParameter], Field(min_length=1)] | None = None
    """Training tokens over all parameters (`n_params`). A single ratio cannot identify a scaling law."""

    # Left out of the spec's digest where it isn't said: older sweeps keep theirs.
    sizes: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """The sizes of the ladder, by label, that these budgets are for; all of them unless given."""
    by_width: dict[int, Annotated[list[PositiveFloat], Field(min_length=1)]] | None = None
    """Another list for some widths, in the same unit."""
    min_tokens_per_parameter: PositiveFloat | None = None
    """Cells below this many tokens over `n_params` are left out, and the plan names them."""
    max_tokens_per_parameter: PositiveFloat | None = None
    """Cells above it are left out, and the plan names them."""

    @model_validator(mode="after")
    def _check(self) -> Budgets:
        problems: list[tuple[str, str]] = [
            (_the_unit(self), f"budget {value:g} stands twice") for value in repeated(self.values)
        ]
        for width, values in (self.by_width or {}).items():
            problems += [(f"by_width.{width}", f"budget {value:g} stands twice") for value in repeated(values)]
            most = MOST[_the_unit(self)]
            problems += [
                (f"by_width.{width}.{index}", f"found {value:g}; a number up to {most:g} is right")
                for index, value in enumerate(values)
                if value > most
            ]
        problems += [("sizes", f"size {size} stands twice") for size in repeated(self.sizes or [])]
        low, high = self.min_tokens_per_parameter, self.max_tokens_per_parameter
        if low is not None and high is not None and low >= high:
            problems.append(
                ("max_tokens_per_parameter", f"found {high:g}; a number above the minimum {low:g} is right")
            )
        if problems:
            refuse(*problems)
        return self

    @property
    def design(self) -> DesignKind:
        return _KIND_OF_UNIT[self.unit]

    @property
    def unit(self) -> BudgetUnit:
        return _the_unit(self)

    @property
    def values(self) -> list[float]:
        return list(getattr(self, self.unit))

    def wanted(self, size: str, d_model: int) -> list[Wanted]:
        """What a size trains to, ascending; nothing where these budgets are not for it."""
        if self.sizes is not None and size not in self.sizes:
            return []
        return [Wanted(self.unit, value) for value in sorted((self.by_width or {}).get(d_model, self.values))]

    def outside_limits(self, tokens_per_parameter: float) -> str | None:
        """Why a cell is left out, or None."""
        low, high = self.min_tokens_per_parameter, self.max_tokens_per_parameter
        if low is not None and tokens_per_parameter < low:
            return f"{tokens_per_parameter:.3g} tokens a parameter, below min_tokens_per_parameter {low:g}"
        if high is not None and tokens_per_parameter > high:
            return f"{tokens_per_parameter:.3g} tokens a parameter, above max_tokens_per_parameter {high:g}"
        return None


class HandCell(Config):
    """One cell, said in full."""

    size: str
    """Label in the ladder."""
    tokens: Tokens
    """Training tokens, before rounding to whole batches."""
    seed: Seed | None = None
    """This one only; the sweep's seeds unless given."""
    lr_multiplier: PositiveFloat | None = None
    """This one only; the recipe's `lr_multipliers` unless given."""


class ByHand(Config):
    """Cells that follow no rule."""

    cells: Annotated[list[HandCell], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> ByHand:
        problems = []
        for index, cell in enumerate(self.cells):
            first = self.cells.index(cell)
            if first < index:
                problems.append((f"cells.{index}", f"the same as cells[{first}]"))
        if problems:
            refuse(*problems)
        return self

    @property
    def design(self) -> DesignKind:
        return "by_hand"

    @property
    def unit(self) -> BudgetUnit:
        return "tokens"

    def wanted(self, size: str, d_model: int) -> list[Wanted]:
        """What a size trains to, ascending."""
        cells = sorted((cell for cell in self.cells if cell.size == size), key=lambda cell: cell.tokens)
        return [Wanted("tokens", cell.tokens, cell.seed, cell.lr_multiplier) for cell in cells]

    def outside_limits(self, tokens_per_parameter: float) -> str | None:
        """A cell by hand is wanted as it stands."""
        return None


def _the_unit(block: OneBudget | Budgets) -> BudgetUnit:
    units = get_args(BudgetUnit)
    given: list[BudgetUnit] = [unit for unit in units if getattr(block, unit) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(units)} is right; found {' and '.join(given) or 'none'}")
    return given[0]


def _part_kind(value: Any) -> str:
    by_hand = isinstance(value, ByHand) or (isinstance(value, dict) and "cells" in value)
    return "by_hand" if by_hand else "block"


def _budgets_kind(value: Any) -> str:
    return "parts" if isinstance(value, list) else "part"


Part = Budgets | ByHand

_ReadPart = Annotated[Annotated[Budgets, Tag("block")] | Annotated[ByHand, Tag("by_hand")], Discriminator(_part_kind)]

#: One part, or a list of parts.
AnyBudgets = Annotated[
    Annotated[_ReadPart, Tag("part")] | Annotated[list[_ReadPart], Field(min_length=1), Tag("parts")],
    Discriminator(_budgets_kind),
]


def parts_of(budgets: Part | list[Part]) -> list[Part]:
    return budgets if isinstance(budgets, list) else [budgets]
