"""Fitting a law to a table of runs: `fit`. Exact to the optimum, with its evidence, its intervals and its held-out error."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.bootstrap import refit, seed_noise
from analysis.design import check_condition, check_design, condition_number
from analysis.laws import get_law
from analysis.laws.base import Array, Law, Problem
from analysis.objective import Objective
from analysis.results import (
    Convergence,
    Excluded,
    Exponents,
    Fit,
    FittedPoint,
    FittedRange,
    HeldOut,
    Interval,
)
from analysis.solver import Solution, minimise
from analysis.table import COUNTING, RunTable
from llama.errors import UserError

#: Two starts ended in one optimum when their objectives agree to this share.
SAME_OPTIMUM = 1e-6
#: Residuals larger than this many robust sds are named as outliers. They stay in the fit.
OUTLIER_SDS = 5.0


def fit(
    table: RunTable,
    *,
    law: str = "chinchilla",
    objective: str = "huber_log",
    delta: float = 1e-3,
    counting: str = "n_params",
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a law to the usable, not held-out runs of `table`, and predict the held-out ones.

    Of a size and length trained at several learning rates only the best enters (`RunTable.at_the_best_rate`).

    Args:
        law: name in `analysis.laws`.
        objective: huber_log, lad_log, lsq_log or lsq, summed over runs (`analysis.objective`).
        delta: Huber's threshold on the log residual.
        counting: the column that N is: n_params, n_params_non_embedding or n_params_matmul.
        bootstrap: resamples for the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        UserError: an unknown name, a count that the runs lack, or a design that can't identify the law.
    """
    if counting not in COUNTING:
        raise UserError(f"no counting rule is called {counting!r}; there are {', '.join(COUNTING)}")
    if bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; the number of resamples must be 0 or more")
    table = table.at_the_best_rate()
    chosen, goal = get_law(law), Objective(name=objective, delta=delta)
    runs, held_out, uncounted = _select(table, counting)
    n_params, n_tokens, loss, weight = (
        runs[column].to_numpy(dtype=np.float64) for column in (counting, "n_tokens", "loss", "weight")
    )
    check_design(n_params, n_tokens, loss, len(chosen.parameters))
    problem = chosen.problem(n_params, n_tokens, loss)
    starts = problem.starts(loss / problem.scale, weight)
    solution = minimise(problem, goal, (loss / problem.scale)[None], weight[None], starts, goal.stages)
    best = int(np.argmin(solution.value_K))
    theta = solution.theta_KP[best]
    params = problem.to_params(theta[None])[0]
    evidence = _evidence(chosen, problem, solution, best)
    check_condition(evidence.condition_number, len(runs) - len(params))

    predicted = chosen.predict(params, n_params, n_tokens)
    residual = np.log(predicted / loss)
    residual_sd = float(np.sqrt((residual**2).sum() / max(1, len(runs) - len(params))))
    warnings = [*table.warnings, *_warnings(runs, residual, residual_sd, evidence, solution, best)]
    sample = None
    if bootstrap:
        sample = refit(
            problem, goal, theta, runs, predicted, residual_sd, counting=counting, draws=bootstrap, seed=seed
        )
        if sample.unconverged > 0.01 * bootstrap:
            warnings.append(
                f"{sample.unconverged} of {bootstrap} resamples stopped short of their optimum; intervals may be too narrow"
            )
    values = params if sample is None else sample.params_KP
    n_opt, d_opt = chosen.exponents(params)
    return Fit(
        law=chosen.name,
        objective=goal.name,
        delta=goal.delta,
        counting=counting,
        n_runs=len(runs),
        n_sizes=len(np.unique(n_params)),
        params=dict(zip(chosen.parameter_names, params.tolist(), strict=True)),
        ci95=None
        if sample is None
        else {name: interval(values[:, column]) for column, name in enumerate(chosen.parameter_names)},
        objective_value=float(solution.value_K[best]),
        exponents=Exponents(
            n_opt=float(n_opt),
            d_opt=float(d_opt),
            ci95=None
            if sample is None
            else dict(zip(("n_opt", "d_opt"), map(interval, chosen.exponents(values)), strict=True)),
        ),
        residual_sd=residual_sd,
        convergence=evidence,
        resampling=None if sample is None else sample.resampling,
        draws_KP=None if sample is None else sample.params_KP,
        held_out=_held_out_error(chosen, params, held_out, counting),
        points=_points(chosen, params, pd.concat([runs, held_out]).sort_index(), counting),
        fitted_range=FittedRange(
            n_params=_range(n_params),
            n_tokens=_range(n_tokens),
            tokens_per_param=_range(n_tokens / n_params),
            n_times_d=_range(n_params * n_tokens),
            loss=_range(loss),
        ),
        excluded=(*table.excluded, *uncounted),
        warnings=tuple(warnings),
    )


def interval(values: Array, level: float = 0.95) -> Interval:
    """The central percentile interval of draws; infinite draws count, NaN ones don't."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(lo=float("nan"), hi=float("nan"))
    # Order statistics rather than interpolation: inf - inf would be NaN.
    lo, hi = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Interval(lo=float(lo), hi=float(hi))


def _select(table: RunTable, counting: str) -> tuple[pd.DataFrame, pd.DataFrame, list[Excluded]]:
    """Runs to fit, runs to predict, and the runs that lack the count asked for."""
    usable = table.usable
    counted = usable[counting].notna()
    missing = usable[~counted]
    if len(missing) == len(usable) and len(usable):
        raise UserError(
            f"{table.source} holds no {counting}, which the fit was asked to count by; it knows "
            f"{', '.join(name for name in COUNTING if usable[name].notna().any())}"
        )
    excluded = [
        Excluded(row=None if pd.isna(row) else int(row), run_id=str(run_id), reason=f"no {counting}")
        for row, run_id in zip(missing["row"], missing["run_id"], strict=True)
    ]
    usable = usable[counted]
    fitted = usable[~usable["held_out"]]
    if not len(fitted):
        raise UserError(f"{table.source} has no finished run to fit{why_none(table)}")
    return fitted, usable[usable["held_out"]], excluded


def why_none(table: RunTable) -> str:
    """The end of a message that a table has no run to fit: what became of them."""
    if not len(table.frame):
        return ": it has no runs"
    reasons = table.frame["excluded"].value_counts()
    reasons = reasons[reasons.index != ""]
    if not len(reasons):
        return ": all runs are held out"
    return f": of its {len(table.frame)} runs {int(reasons.iloc[0])} are left out as {str(reasons.index[0])!r}"


def _evidence(law: Law, problem: Problem, solution: Solution, best: int) -> Convergence:
    theta = solution.theta_KP[best]
    values = np.sort(solution.value_K[solution.converged_K | (np.arange(len(solution.value_K)) == best)])
    floor = max(float(values[0]), 1e-300)
    distinct = np.concatenate([[True], np.diff(values) > SAME_OPTIMUM * floor])
    order = values[distinct]
    params = dict(zip(law.parameter_names, problem.to_params(theta[None])[0], strict=True))
    at_bound = (theta <= problem.lower_P) | (theta >= problem.upper_P)
    hits = tuple(f"{name} = {params[name]:.4g}" for name, hit in zip(problem.coordinates, at_bound, strict=True) if hit)
    return Convergence(
        gradient_norm=float(solution.gradient_norm_K[best]),
        bound_hits=hits,
        n_starts=len(solution.value_K),
        n_optima=len(order),
        next_best_gap=float(order[1] / floor - 1) if len(order) > 1 else None,
        condition_number=condition_number(problem, theta),
    )


def _warnings(
    runs: pd.DataFrame, residual_n: Array, residual_sd: float, evidence: Convergence, solution: Solution, best: int
) -> list[str]:
    warnings = []
    if not solution.converged_K[best]:
        warnings.append(f"the optimum is not exact: the gradient's norm is {evidence.gradient_norm:.2g}")
    if evidence.bound_hits:
        warnings.append(f"the fit ended on a bound: {', '.join(evidence.bound_hits)}; these runs don't determine it")
    robust_sd = 1.4826 * float(np.median(np.abs(residual_n)))
    outliers = runs["name"].to_numpy()[np.abs(residual_n) > max(OUTLIER_SDS * robust_sd, 1e-6)]
    if len(outliers):
        named = ", ".join(map(str, outliers[:5])) + (f" and {len(outliers) - 5} more" if len(outliers) > 5 else "")
        warnings.append(
            f"{len(outliers)} of {len(runs)} runs lie more than {OUTLIER_SDS:g} robust sds ({robust_sd:.2%}) off the law: "
            f"{named}; they stay in the fit"
        )
    noise = seed_noise(runs)
    if noise is not None and noise.degrees_of_freedom >= 4 and residual_sd > 2 * noise.sd:
        warnings.append(
            f"the law misses the runs by {residual_sd:.2%}, more than twice the noise between seeds ({noise.sd:.2%}): "
            "its form or the training recipe is off somewhere; look at the residuals"
        )
    return warnings


def _held_out_error(law: Law, params_P: Array, held_out: pd.DataFrame, counting: str) -> HeldOut | None:
    if not len(held_out):
        return None
    loss = held_out["loss"].to_numpy(dtype=np.float64)
    predicted = law.predict(params_P, held_out[counting].to_numpy(dtype=np.float64), held_out["n_tokens"].to_numpy())
    error = np.abs(predicted / loss - 1)
    return HeldOut(n=len(held_out), mean_abs_rel_error=float(error.mean()), max_abs_rel_error=float(error.max()))


def _points(law: Law, params_P: Array, runs: pd.DataFrame, counting: str) -> tuple[FittedPoint, ...]:
    n_params, n_tokens = runs[counting].to_numpy(dtype=np.float64), runs["n_tokens"].to_numpy(dtype=np.float64)
    loss = runs["loss"].to_numpy(dtype=np.float64)
    predicted = law.predict(params_P, n_params, n_tokens)
    return tuple(
        FittedPoint(
            run_id=str(run_id),
            name=str(name),
            n_params=float(n_params[i]),
            n_tokens=float(n_tokens[i]),
            loss=float(loss[i]),
            predicted=float(predicted[i]),
            log_residual=float(np.log(predicted[i] / loss[i])),
            held_out=bool(held),
        )
        for i, (run_id, name, held) in enumerate(zip(runs["run_id"], runs["name"], runs["held_out"], strict=True))
    )


def _range(values: Array) -> Interval:
    return Interval(lo=float(values.min()), hi=float(values.max()))
