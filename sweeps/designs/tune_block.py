"""`tune:` in a sweep's YAML: what is searched, over which values, and with how many trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from llama.config import Config, Positive, PositiveFloat
from llama.recipes.tuned_law import Range
from sweeps.designs.budgets import Seed
from sweeps.yaml_lines import refuse, repeated

#: A curve with a minimum in the rate and in the batch has six numbers; fewer trials than this say nothing of noise.
LEAST_TRIALS = 6


class Multiples(Config):
    """Learning rates that are tried, as multiples of what the sweep's recipe says at the size and horizon."""

    low: PositiveFloat = 0.125
    high: PositiveFloat = 8.0

    @model_validator(mode="after")
    def _check(self) -> Multiples:
        if self.high < 4 * self.low:
            refuse(
                ("high", f"found {self.high:g}; at least 4 times low, {4 * self.low:g}, is right: a minimum needs room")
            )
        return self


class Pruning(Config):
    """When a trial is stopped before its end. It is then *censored*: known to be no better, and no point of any fit."""

    at: Annotated[float, Field(gt=0, lt=0.8)] = 0.4
    """Share of a trial's tokens after which it is judged, once. WSD's cooldown takes the last fifth, and losses before it say
    little of high rates: early is not fair to them."""
    above: Annotated[float, Field(ge=0.5, lt=1)] = 0.75
    """It goes on unless its loss there is above this quantile of those, at the same tokens, of its cell's earlier trials."""
    after: Annotated[int, Field(ge=4)] = 5
    """Trials of a cell that are judged by nothing: they are what later ones are held against."""


class RateSearch(Config):
    """Learning rate and batch at each size and budget of the sweep. The largest size is held out of the law."""

    lr_multiples: Multiples = Multiples()
    batch_tokens: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Batches that are tried; the recipe's alone unless given. The law of the batch needs three at least."""
    trials: Annotated[int, Field(ge=LEAST_TRIALS)]
    """At each size and budget."""
    at_once: Positive = 1
    """Suggestions of one size and budget that are made before the first of them is known. All sizes and budgets go side by
    side anyway; more than one pays where there are more slots than these."""
    prune: Pruning | None = None
    check_seeds: list[Seed] = Field(default=[0, 1, 2], min_length=2)
    """At the held-out size the tuned recipe and the sweep's own train at each of these, in pairs."""

    @model_validator(mode="after")
    def _check(self) -> RateSearch:
        problems = [
            *repeats("batch_tokens", self.batch_tokens or []),
            *repeats("check_seeds", self.check_seeds),
            *_uneven(self.trials, self.at_once),
        ]
        if problems:
            refuse(*problems)
        return self


class ShapeSearch(Config):
    """Shapes at the compute of the sweep's one budget, against loss and measured decode cost. The ladder's one shape is the
    reference that both are held against.
    """

    widths: Annotated[list[Positive], Field(min_length=1)]
    layers: Annotated[list[Positive], Field(min_length=1)]
    heads: Annotated[list[Positive], Field(min_length=1)]
    """Query heads. Every width must be a multiple of twice each, since rotary embedding needs even heads."""
    queries_per_kv_head: list[Positive] = Field(default=[1], min_length=1)
    """Query heads that share keys and values; where a shape's heads are no multiple, as many of them as divide both."""
    ff_ratios: list[PositiveFloat] = Field(default=[8 / 3], min_length=1)
    """Feed-forward width over the width, rounded to a multiple of 8. LLaMA's is 8/3."""
    n_params: Range | None = None
    """Parameters, embeddings included; a suggestion beyond is drawn again. A narrow range is one size throughout."""
    trials: Annotated[int, Field(ge=LEAST_TRIALS)]
    at_once: Positive = 2
    """Suggestions that are made before the first of them is known, and measured together."""

    @model_validator(mode="after")
    def _check(self) -> ShapeSearch:
        problems = [*_uneven(self.trials, self.at_once)]
        for field in ("widths", "layers", "heads", "queries_per_kv_head", "ff_ratios"):
            problems += repeats(field, getattr(self, field))
        for index, width in enumerate(self.widths):
            wrong = [heads for heads in self.heads if width % (2 * heads)]
            if wrong:
                problems.append(
                    (f"widths.{index}", f"width {width} has no even heads where there are {wrong[0]} of them")
                )
        if problems:
            refuse(*problems)
        return self


class Tune(Config):
    """What `isoloss tune` does with this sweep: one of the two searches."""

    learning_rate: RateSearch | None = None
    shape: ShapeSearch | None = None
    seed: Seed = 0
    """Of the suggestions."""

    @model_validator(mode="after")
    def _check(self) -> Tune:
        if (self.learning_rate is None) == (self.shape is None):
            raise ValueError("give one of learning_rate and shape")
        return self

    def problems(
        self, *, n_sizes: int, n_budgets: int, unit: str, measures_serving: bool, unheeded: Sequence[str]
    ) -> list[tuple[str, str]]:
        """What in the rest of the sweep does not suit the search, by key below `tune`; `unheeded` are keys that set what a
        search sets itself.
        """
        if unheeded:
            search = "learning_rate" if self.learning_rate is not None else "shape"
            return [
                (search, f"trials take seeds.base and rates of their own: leave out {' and '.join(unheeded)}"),
            ]
        if self.learning_rate is not None and n_sizes < 3:
            return [
                ("learning_rate", f"the ladder has {n_sizes} sizes: the law needs two, and a larger one to be held out")
            ]
        if self.shape is not None and (n_sizes != 1 or n_budgets != 1 or unit != "flops"):
            return [
                (
                    "shape",
                    "a search at fixed compute takes budgets.flops with one budget, and a ladder of one shape to compare with",
                )
            ]
        if self.shape is not None and not measures_serving:
            return [("shape", "decode cost is measured as the block inference says: give one in place of off")]
        return []


def repeats(field: str, values: Sequence[float]) -> list[tuple[str, str]]:
    return [(field, f"{value:g} stands twice") for value in repeated(values)]


def _uneven(trials: int, at_once: int) -> list[tuple[str, str]]:
    if trials % at_once == 0:
        return []
    return [
        (
            "trials",
            f"found {trials}; a multiple of at_once, {at_once}, is right: suggestions are made {at_once} at a time",
        )
    ]
