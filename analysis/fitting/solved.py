"""The optimum of a law on runs, and which runs it is left standing on: outliers named, or dropped and the law fitted again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting import outliers
from analysis.fitting.design import check_condition, check_design
from analysis.fitting.loss_units import check_outlying_units, check_units
from analysis.fitting.objective import Objective
from analysis.fitting.run_arrays import RunArrays
from analysis.fitting.solver import Solution, minimise
from analysis.laws.base import Array, Law, Problem
from analysis.results import Outlier
from llama.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The optimum of a law on some runs."""

    law: Law
    problem: Problem
    solution: Solution
    best: int
    params: Array

    @property
    def theta(self) -> Array:
        return np.asarray(self.solution.theta_KP[self.best])

    @property
    def converged(self) -> bool:
        return bool(self.solution.converged_K[self.best])

    def predict(self, runs: RunArrays) -> Array:
        return self.law.predict(self.params, runs.n_params, runs.n_tokens, runs.unique_or_inf)

    def residual(self, runs: RunArrays) -> Array:
        return np.asarray(np.log(self.predict(runs) / runs.loss))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The runs that stay, the law through them, and those that are off it."""

    runs: RunArrays
    solved: Solved
    sd: float
    """Robust, of the residuals of those that stay."""
    residual_sd: float
    staying: tuple[Outlier, ...]
    dropped: tuple[Outlier, ...]
    dropped_frame: pd.DataFrame


def check_runs(law: Law, runs: RunArrays) -> None:
    """Refuse runs that can't identify the law.

    Raises:
        UserError: what to vary.
    """
    check_design(runs.n_params, runs.n_tokens, runs.loss, law)
    law.check(runs.n_params, runs.n_tokens, runs.unique_tokens)
    check_condition(law, runs.n_params, runs.n_tokens, runs.unique_tokens)


def keep(law: Law, goal: Objective, runs: RunArrays, *, drop: bool) -> Kept:
    """Fit the law to `runs` and name the outliers; with `drop` take them out, fit again, and go on until none is left.

    Raises:
        UserError: losses that look like two units, or runs that can't identify the law without the outliers.
    """
    unit_unsaid = bool((runs.frame["loss_unit"] == "").any())
    if unit_unsaid:
        check_units(runs.n_params, runs.n_tokens, runs.loss, runs.names)
    solved = _solve(law, goal, runs)
    scale = runs.noise_scale
    if unit_unsaid:
        residual = solved.residual(runs)
        sd = outliers.robust_sd(residual / scale, len(solved.params))
        check_outlying_units(residual, outliers.outlying(residual, scale, sd), runs.names)
    stays = np.ones(len(runs.loss), dtype=np.bool_)
    for round_number in range(outliers.MAX_ROUNDS + 1):
        residual = solved.residual(runs)
        sd = outliers.robust_sd((residual / scale)[stays], len(solved.params))
        off = outliers.outlying(residual, scale, sd)
        if not drop or round_number == outliers.MAX_ROUNDS or not (off & stays).any():
            break
        stays = stays & ~off
        fewer = runs.only(stays)
        try:
            check_runs(law, fewer)
        except UserError as error:
            raise UserError(f"without the {int((~stays).sum())} outliers: {error}") from None
        solved = _solve(law, goal, fewer)
    left = runs.only(stays)
    standard = residual[stays] / left.noise_scale
    named = stays & off
    return Kept(
        runs=left,
        solved=solved,
        sd=sd,
        residual_sd=float(np.sqrt((standard**2).sum() / max(1, len(standard) - len(solved.params)))),
        staying=outliers.records(runs.frame[named], residual[named], scale[named], sd),
        dropped=outliers.records(runs.frame[~stays], residual[~stays], scale[~stays], sd),
        dropped_frame=runs.frame[~stays],
    )


def _solve(law: Law, goal: Objective, runs: RunArrays) -> Solved:
    problem = law.problem(runs.n_params, runs.n_tokens, runs.loss, runs.unique_tokens)
    scaled = runs.loss / problem.scale
    starts = problem.starts(scaled, runs.weight)
    solution = minimise(problem, goal, scaled[None], runs.weight[None], starts, goal.stages)
    best = int(np.argmin(solution.value_K))
    return Solved(
        law=law,
        problem=problem,
        solution=solution,
        best=best,
        params=problem.to_params(solution.theta_KP[best][None])[0],
    )
