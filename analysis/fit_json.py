"""The JSON document of `isoloss fit RUNS --json` (DESIGN, "The command")."""

from __future__ import annotations

import math
from typing import Any

from analysis.results import Fit, Interval


def fit_json(fit: Fit) -> dict[str, Any]:
    """A fit as JSON values; `ci95` is null without a bootstrap, and so is any number that is not finite."""
    held_out = fit.held_out
    return {
        "law": fit.law,
        "objective": fit.objective,
        "delta": fit.delta,
        "counting": fit.counting,
        "n_runs": fit.n_runs,
        "params": {name: _number(value) for name, value in fit.params.items()},
        "ci95": _intervals(fit.ci95),
        "objective_value": _number(fit.objective_value),
        "exponents": {
            "n_opt": _number(fit.exponents.n_opt),
            "d_opt": _number(fit.exponents.d_opt),
            "ci95": _intervals(fit.exponents.ci95),
        },
        "held_out": {
            "n": held_out.n if held_out else 0,
            "mean_abs_rel_error": _number(held_out.mean_abs_rel_error) if held_out else None,
            "max_abs_rel_error": _number(held_out.max_abs_rel_error) if held_out else None,
        },
        "excluded": [
            {"row": out.row if out.row is not None else out.run_id, "reason": out.reason} for out in fit.excluded
        ],
        "warnings": list(fit.warnings),
    }


def _intervals(intervals: dict[str, Interval] | None) -> dict[str, list[float | None]] | None:
    if intervals is None:
        return None
    return {name: [_number(interval.lo), _number(interval.hi)] for name, interval in intervals.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
