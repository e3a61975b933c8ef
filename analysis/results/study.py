"""The whole: one table of runs, everything that was worked out from it, and the answer in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.results.checks import Extrapolation, ResidualStructure
from analysis.results.comparisons import Approaches
from analysis.results.costs import Costs, Serving, TokenCost
from analysis.results.decisions import BudgetOptimum, KCurve, Lifetime, MatchedPair
from analysis.results.fit import Fit
from analysis.results.measured import FrontierPoint, Isoflop
from analysis.results.recommendation import Recommendation

if TYPE_CHECKING:
    from analysis.runs.table import LossCurve, RunTable


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the study says, in sentences a person can quote, most important first."""

    headline: str
    """The one sentence the project is for; says so where the data show no gain."""
    sentences: tuple[str, ...]
    """Law, intervals, held-out error, compute optimum, lifetime optimum, each with what it rests on."""
    measured: tuple[str, ...]
    interpolated: tuple[str, ...]
    extrapolated: tuple[str, ...]
    """What of the above was measured, what lies between measured points by a law or a line, and what lies beyond them."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of runs and everything that was worked out from it."""

    table: RunTable
    curves: tuple[LossCurve, ...]
    """Loss against tokens of every run and trunk that has a journal."""
    fit: Fit | None
    frontier: tuple[FrontierPoint, ...]
    isoflop: Isoflop | None
    train_flops: TokenCost
    """Training FLOPs a token over N: the table's own count, or 6 N by name."""
    budgets: tuple[BudgetOptimum, ...]
    """Compute-optimal models at the declared budgets, or at the largest run's FLOPs where none are declared."""
    serving: Serving | None
    costs: Costs | None
    lifetime: Lifetime | None
    k_curve: KCurve | None
    recommendation: Recommendation | None = None
    """At the lifetime's target loss and demand, with its joint interval."""
    structure: ResidualStructure | None = None
    extrapolation: Extrapolation | None = None
    approaches: Approaches | None = None
    """Envelope, isoFLOPs and surface side by side."""
    pairs: tuple[MatchedPair, ...]
    """Measured pairs first, the most telling first; then fitted ones."""
    answer: Answer
    absent: dict[str, str]
    """By field name of this record: why a part is missing."""
