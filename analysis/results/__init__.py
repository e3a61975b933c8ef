"""Results of an analysis as typed records: what the plots, the report and the command read.

Units throughout: N in parameters (under the fit's counting rule), D in tokens, loss in nats a token, compute in FLOPs, cost in
the unit that its record names. Arrays are float64; a suffix gives their axes: K bootstrap draws, P law parameters, G grid.
A part that could not be worked out is None in `Study`, and `Study.absent` says why.
"""

from __future__ import annotations

from analysis.results.basic import Array, Band, Excluded, Interval
from analysis.results.checks import (
    AxisStructure,
    Extrapolation,
    LossForecast,
    NoiseModel,
    OffRate,
    Outlier,
    ResidualStructure,
    Window,
    WindowForecast,
)
from analysis.results.comparisons import (
    Approach,
    Approaches,
    CheckedForecast,
    ComparedTable,
    Comparison,
    ConvertedLaw,
    CountConversion,
    Envelope,
    EnvelopePoint,
    Estimate,
    FlopsRule,
    FlopsRuleChange,
    Forecast,
    ForecastCheck,
    Frozen,
    FrozenRun,
    LossCurveFit,
)
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
from analysis.results.measured import BowlPoint, CubicVertex, FrontierPoint, Isoflop, IsoflopVertex, PowerLaw
from analysis.results.recommendation import Family, FamilyMember, Limit, Question, Recommendation, Regret
from analysis.results.study import Answer, Study
from analysis.results.uncertainty import Choice, Contribution, Factor, Uncertainty

__all__ = [
    "Answer",
    "Approach",
    "Approaches",
    "Array",
    "AxisStructure",
    "Band",
    "BatchCost",
    "BowlPoint",
    "BreakEven",
    "BudgetOptimum",
    "CheckedForecast",
    "Choice",
    "ComparedTable",
    "Comparison",
    "Contribution",
    "Convergence",
    "ConvertedLaw",
    "Costs",
    "CountConversion",
    "CubicVertex",
    "Envelope",
    "EnvelopePoint",
    "Estimate",
    "Excluded",
    "Exponents",
    "Extrapolation",
    "Factor",
    "Family",
    "FamilyMember",
    "Fit",
    "FittedPoint",
    "FittedRange",
    "FlopsRule",
    "FlopsRuleChange",
    "Forecast",
    "ForecastCheck",
    "FrontierPoint",
    "Frozen",
    "FrozenRun",
    "HeldOut",
    "Interval",
    "Isoflop",
    "IsoflopVertex",
    "KCurve",
    "Lifetime",
    "Limit",
    "LossCurveFit",
    "LossForecast",
    "MatchedPair",
    "NoiseModel",
    "OffRate",
    "Optimum",
    "Outlier",
    "PairSide",
    "PowerLaw",
    "Question",
    "Recommendation",
    "Regret",
    "Resampling",
    "ResidualStructure",
    "Ridge",
    "Serving",
    "SizeLine",
    "Study",
    "TokenCost",
    "Uncertainty",
    "Window",
    "WindowForecast",
]
