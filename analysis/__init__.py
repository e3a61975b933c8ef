"""What it means: runs table -> laws -> decisions -> plots -> report. No torch, no Ray.

    from analysis import load_runs, fit, recommend, analyse

Names are imported on first use, so that `import analysis` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.costs import Prices
    from analysis.fitting import fit
    from analysis.limits import Limits
    from analysis.recommending import recommend
    from analysis.results import Fit, Recommendation, Study
    from analysis.runs import load_curves, load_runs
    from analysis.study import analyse
    from analysis.table import RunTable

_HOMES = {
    "Fit": "analysis.results",
    "Limits": "analysis.limits",
    "Prices": "analysis.costs",
    "Recommendation": "analysis.results",
    "RunTable": "analysis.table",
    "Study": "analysis.results",
    "analyse": "analysis.study",
    "fit": "analysis.fitting",
    "load_curves": "analysis.runs",
    "load_runs": "analysis.runs",
    "recommend": "analysis.recommending",
}

__all__ = [
    "Fit",
    "Limits",
    "Prices",
    "Recommendation",
    "RunTable",
    "Study",
    "analyse",
    "fit",
    "load_curves",
    "load_runs",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
