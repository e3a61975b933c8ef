"""What it means: runs table -> laws -> decisions -> plots -> report. No torch, no Ray.

    from analysis import load_runs, fit, recommend, report

Names are imported on first use, so that `import analysis` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.comparing.compare import compare
    from analysis.decisions.costs import Prices
    from analysis.decisions.limits import Limits
    from analysis.decisions.recommend import recommend
    from analysis.downstream.forms import fit_downstream
    from analysis.fitting.extrapolation import expanding_window, forecast
    from analysis.fitting.fit import fit
    from analysis.fitting.information import predicted_optimum_interval
    from analysis.fitting.residual_structure import residual_structure
    from analysis.forecasts.forecast_check import check_forecasts
    from analysis.forecasts.freeze import freeze, read_frozen
    from analysis.next.suggest import next_runs
    from analysis.page.report import report
    from analysis.results import Comparison, Fit, Recommendation, Study
    from analysis.runs.load import load_curves, load_runs
    from analysis.runs.table import LossCurve, RunTable
    from analysis.study import analyse

_HOMES = {
    "Comparison": "analysis.results",
    "Fit": "analysis.results",
    "Limits": "analysis.decisions.limits",
    "LossCurve": "analysis.runs.table",
    "Prices": "analysis.decisions.costs",
    "Recommendation": "analysis.results",
    "RunTable": "analysis.runs.table",
    "Study": "analysis.results",
    "analyse": "analysis.study",
    "check_forecasts": "analysis.forecasts.forecast_check",
    "compare": "analysis.comparing.compare",
    "expanding_window": "analysis.fitting.extrapolation",
    "fit": "analysis.fitting.fit",
    "fit_downstream": "analysis.downstream.forms",
    "forecast": "analysis.fitting.extrapolation",
    "freeze": "analysis.forecasts.freeze",
    "load_curves": "analysis.runs.load",
    "load_runs": "analysis.runs.load",
    "next_runs": "analysis.next.suggest",
    "predicted_optimum_interval": "analysis.fitting.information",
    "read_frozen": "analysis.forecasts.freeze",
    "recommend": "analysis.decisions.recommend",
    "report": "analysis.page.report",
    "residual_structure": "analysis.fitting.residual_structure",
}

__all__ = [
    "Comparison",
    "Fit",
    "Limits",
    "LossCurve",
    "Prices",
    "Recommendation",
    "RunTable",
    "Study",
    "analyse",
    "check_forecasts",
    "compare",
    "expanding_window",
    "fit",
    "fit_downstream",
    "forecast",
    "freeze",
    "load_curves",
    "load_runs",
    "next_runs",
    "predicted_optimum_interval",
    "read_frozen",
    "recommend",
    "report",
    "residual_structure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
