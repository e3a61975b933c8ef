"""Results of an analysis as typed records: what the plots, the report and the command read.

Units throughout: N in parameters (under the fit's counting rule), D in tokens, loss in nats a token, compute in FLOPs, cost in
the unit that its record names. Arrays are float64; a suffix gives their axes: K bootstrap draws, P law parameters, G grid.
A part that could not be worked out is None in `Study`, and `Study.absent` says why.
"""

from __future__ import annotations

from analysis.results.basic import Array, Band, Excluded, Interval
from analysis.results.costs import BatchCost, Costs, Serving, TokenCost
from analysis.results.decisions import (
    BreakEven,
    BudgetOptimum,
    KCurve,
    Lifetime,
    MatchedPair,
    Optimum,
    PairSide,
    Ridge,
    SizeLine,
)
from analysis.results.fit import Convergence, Exponents, Fit, FittedPoint, FittedRange, HeldOut, Resampling
from analysis.results.measured import BowlPoint, FrontierPoint, Isoflop, IsoflopVertex, PowerLaw
from analysis.results.study import Answer, Study

__all__ = [
    "Answer",
    "Array",
    "Band",
    "BatchCost",
    "BowlPoint",
    "BreakEven",
    "BudgetOptimum",
    "Convergence",
    "Costs",
    "Excluded",
    "Exponents",
    "Fit",
    "FittedPoint",
    "FittedRange",
    "FrontierPoint",
    "HeldOut",
    "Interval",
    "Isoflop",
    "IsoflopVertex",
    "KCurve",
    "Lifetime",
    "MatchedPair",
    "Optimum",
    "PairSide",
    "PowerLaw",
    "Resampling",
    "Ridge",
    "Serving",
    "SizeLine",
    "Study",
    "TokenCost",
]
