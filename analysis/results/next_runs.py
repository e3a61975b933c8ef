"""The answer of `isoloss next`: which runs to make, what they are expected to narrow, and whether they pay for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.fitting.run_noise import RunNoise
from analysis.results.basic import Interval
from analysis.results.costs import Costs
from analysis.results.fit import Fit
from analysis.results.recommendation import Question

Narrow = Literal["n", "d", "loss", "dollars"]


@dataclass(frozen=True, kw_only=True)
class CandidateRun:
    """A run that could be made."""

    name: str
    size: str
    """Label of its shape in a sweep's ladder; "" where there is none."""
    seed: int | None
    """Of a sweep's run; None where nobody said."""
    needs: str
    """What the sweep's YAML lacks for it, beside the cell."""
    n_params: float
    n_tokens: float
    flops: float
    """Of training it: from scratch, or off a trunk that stands; a candidates' file may say otherwise."""
    cost: float
    """Of the same in the costs' unit."""
    share: float
    """Of the narrowed quantity's variance that this run alone is expected to take away."""


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """A run of the batch, with what is expected once it and those before it are made."""

    run: CandidateRun
    spent_flops: float
    spent_cost: float
    left: float
    """Share of the quantity's variance that is left."""
    ci95: Interval
    """The narrowed quantity's, about where the law has it today."""
    saving: float
    """What the better choice is expected to save at the target, in the costs' unit."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Whether more runs pay for themselves."""

    enough: bool
    """More runs will not change the choice, or not for what they cost."""
    worth: int
    """How many runs of the batch, from its first, to make: those after cost more than they are expected to save."""
    target_cost: float
    """Of the model that is chosen today, in the costs' unit: training, and serving where there is a demand."""
    waste: float
    """Share of it that is expected to be paid too much, were the choice made today."""
    saving_of_all: float
    """Of that, what all candidates together are expected to save, in the costs' unit."""
    words: str


@dataclass(frozen=True, kw_only=True)
class NextRuns:
    """Which runs to make next."""

    question: Question
    fit: Fit
    costs: Costs
    narrow: Narrow
    unit: str
    """Of the narrowed quantity."""
    value: float
    """By the law today."""
    ci95: Interval
    """By its resamples today."""
    noise: RunNoise
    noise_rule: str
    """How the noise was told from the law's misfit, in words."""
    made: tuple[tuple[float, float], ...]
    """(n_params, n_tokens) of the fitted runs."""
    target: tuple[float, float]
    """(n_params, n_tokens) that is chosen today."""
    candidates: tuple[CandidateRun, ...]
    chosen: tuple[NextRun, ...]
    stop: Stop
    resamples: int
    """That the shares are averaged over."""
    warnings: tuple[str, ...]
