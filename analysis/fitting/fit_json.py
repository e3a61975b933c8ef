"""The JSON document of `isoloss fit RUNS --json`, whichever approach it is by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from analysis.results import (
    Approach,
    Approaches,
    Excluded,
    Extrapolation,
    Fit,
    NoiseModel,
    Outlier,
    RatioExtrapolation,
    ResidualStructure,
)
from analysis.values_json import estimate_json, finite, interval_json, intervals_json


def fit_json(
    fit: Fit | Approaches, *, structure: ResidualStructure | None = None, extrapolation: Extrapolation | None = None
) -> dict[str, Any]:
    """A fit as JSON values; `ci95` is null without a bootstrap, and so is any number that is not finite.

    Of approach 1 or 2 (from `analysis.optima.approaches`) the law is called envelope or isoflop, its parameters are the
    coefficients and exponents of N_opt = k C^a and D_opt = k C^a, C in FLOPs, and what only a surface has is null.

    Args:
        fit: a law, or the record of one approach.
        structure, extrapolation: what else was asked of a law; null where it was not.
    """
    if isinstance(fit, Approaches):
        return _approach_document(fit, fit.approaches[0])
    held_out = fit.held_out
    return {
        "law": fit.law,
        "objective": fit.objective,
        "delta": fit.delta,
        "counting": fit.counting,
        "n_runs": fit.n_runs,
        "params": {name: finite(value) for name, value in fit.params.items()},
        "ci95": intervals_json(fit.ci95),
        "objective_value": finite(fit.objective_value),
        "exponents": {
            "n_opt": finite(fit.exponents.n_opt),
            "d_opt": finite(fit.exponents.d_opt),
            "ci95": intervals_json(fit.exponents.ci95),
        },
        "held_out": {
            "n": held_out.n if held_out else 0,
            "mean_abs_rel_error": finite(held_out.mean_abs_rel_error) if held_out else None,
            "max_abs_rel_error": finite(held_out.max_abs_rel_error) if held_out else None,
        },
        "excluded": excluded_json(fit.excluded),
        "warnings": list(fit.warnings),
        "approach": 3,
        "convergence": {
            "gradient_norm": finite(fit.convergence.gradient_norm),
            "bound_hits": list(fit.convergence.bound_hits),
            "n_starts": fit.convergence.n_starts,
            "n_optima": fit.convergence.n_optima,
            "next_best_gap": finite(fit.convergence.next_best_gap),
            "condition_number": finite(fit.convergence.condition_number),
        },
        "resampling": None if fit.resampling is None else asdict(fit.resampling),
        "structure": None if structure is None else _structure(structure),
        "extrapolation": None if extrapolation is None else _extrapolation(extrapolation),
        "data_digest": fit.data_digest,
        "outliers": {
            "rule": fit.outlier_rule,
            "flagged": [_outlier(run) for run in fit.outliers],
            "dropped": [_outlier(run) for run in fit.dropped],
        },
        "residual_sd": finite(fit.residual_sd),
        "weights": fit.weights,
        "noise_model": None if fit.noise_model is None else _noise_model(fit.noise_model),
        "off_rate": [
            {
                "n_params": size.n_params,
                "n_runs": size.n_runs,
                "peak_lr": finite(size.peak_lr),
                "tuned_lr": finite(size.tuned_lr),
                "reason": size.reason,
            }
            for size in fit.off_rate
        ],
    }


def approaches_json(found: Approaches) -> dict[str, Any]:
    """The three approaches side by side: each one's exponents, and N, D and loss at the budget, or why it has none."""
    return {
        "flops": found.flops,
        "largest_flops": found.largest_flops,
        "counting": found.counting,
        "flops_rule": found.flops_rule,
        "n_opt_spread": finite(found.n_opt_spread),
        "approaches": [
            {
                "approach": one.number,
                "law": one.name,
                "n_runs": one.n_runs,
                "exponents": {"n_opt": estimate_json(one.n_opt_exponent), "d_opt": estimate_json(one.d_opt_exponent)},
                "n_params": estimate_json(one.n_opt),
                "tokens": estimate_json(one.d_opt),
                "loss": estimate_json(one.loss),
                "resampling": None if one.resampling is None else asdict(one.resampling),
                "absent": one.absent,
                "warnings": list(one.warnings),
            }
            for one in found.approaches
        ],
        "bowls": []
        if found.isoflop is None
        else [
            {
                "flops_budget": vertex.flops_budget,
                "n_params": finite(vertex.n_opt),
                "tokens": finite(vertex.d_opt),
                "loss": finite(vertex.loss),
                "flag": vertex.flag,
                "cubic": None
                if vertex.cubic is None
                else {
                    "n_params": finite(vertex.cubic.n_opt),
                    "ratio": finite(vertex.cubic.ratio),
                    "differs": vertex.cubic.differs,
                },
            }
            for vertex in found.isoflop.vertices
        ],
        "excluded": excluded_json(found.excluded),
        "warnings": list(found.warnings),
    }


def excluded_json(excluded: Iterable[Excluded]) -> list[dict[str, Any]]:
    """Each run that was left out, by its row in a file or else its id, and why."""
    return [{"row": out.row if out.row is not None else out.run_id, "reason": out.reason} for out in excluded]


def _approach_document(found: Approaches, one: Approach) -> dict[str, Any]:
    exponents = {"n_opt": one.n_opt_exponent, "d_opt": one.d_opt_exponent}
    known = all(each is not None and each.ci95 is not None for each in exponents.values())
    return {
        "law": one.name,
        "objective": one.objective,
        "delta": None,
        "counting": one.counting,
        "n_runs": one.n_runs,
        "params": {name: finite(value) for name, value in one.params.items()},
        "ci95": intervals_json(one.ci95),
        "objective_value": finite(one.objective_value),
        "exponents": {
            **{name: None if each is None else finite(each.value) for name, each in exponents.items()},
            "ci95": {name: interval_json(each.ci95) for name, each in exponents.items() if each is not None}
            if known
            else None,
        },
        # A power law of optima predicts no single run's loss.
        "held_out": {"n": 0, "mean_abs_rel_error": None, "max_abs_rel_error": None},
        "excluded": excluded_json(found.excluded),
        "warnings": [*found.warnings, *one.warnings, *(f"no {name}: {why}" for name, why in one.absent.items())],
        "approach": one.number,
        "convergence": None,
        "resampling": None if one.resampling is None else asdict(one.resampling),
        "structure": None,
        "extrapolation": None,
        "data_digest": None,
        "outliers": None,
        "residual_sd": None,
        "weights": None,
        "noise_model": None,
        "off_rate": None,
    }


def _noise_model(model: NoiseModel) -> dict[str, Any]:
    return {
        "sd": finite(model.sd),
        "n_params": finite(model.n_params),
        "exponent": finite(model.exponent),
        "degrees_of_freedom": model.degrees_of_freedom,
        "sizes": interval_json(model.sizes),
    }


def _structure(structure: ResidualStructure) -> dict[str, Any]:
    return {
        "structured": structure.structured,
        "level": structure.level,
        "method": structure.method,
        "axes": [
            {
                "axis": axis.axis,
                "p_value": finite(axis.p_value),
                "p_holm": finite(axis.p_holm),
                "structured": axis.structured,
                "at": [finite(value) for value in axis.at],
                "miss": [finite(value) for value in axis.miss],
                "shape": axis.shape,
            }
            for axis in structure.axes
        ],
    }


def _extrapolation(extrapolation: Extrapolation) -> dict[str, Any]:
    return {
        "residual_sd": finite(extrapolation.residual_sd),
        "growth": finite(extrapolation.growth),
        "max_distance": finite(extrapolation.max_distance),
        "windows": [
            {
                "max_compute": finite(window.max_compute),
                "n_runs": window.n_runs,
                "n_predicted": window.n_predicted,
                "rms_log_error": finite(window.rms_log_error),
                "skipped": window.skipped,
            }
            for window in extrapolation.windows
        ],
        "ratio": None if extrapolation.ratio is None else _by_ratio(extrapolation.ratio),
    }


def _by_ratio(ratio: RatioExtrapolation) -> dict[str, Any]:
    return {
        "growth": finite(ratio.growth),
        "max_distance": finite(ratio.max_distance),
        "windows": [
            {
                "limit": finite(window.limit),
                "predicts": window.predicts,
                "n_runs": window.n_runs,
                "n_predicted": window.n_predicted,
                "rms_log_error": finite(window.rms_log_error),
                "skipped": window.skipped,
            }
            for window in ratio.windows
        ],
    }


def _outlier(run: Outlier) -> dict[str, Any]:
    return {
        "run": run.row if run.row is not None else run.run_id,
        "name": run.name,
        "log_residual": finite(run.log_residual),
        "robust_sds": finite(run.robust_sds),
    }
