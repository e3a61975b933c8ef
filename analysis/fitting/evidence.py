"""Evidence that a fit's optimum is one, and what to say where it is doubtful."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import seed_noise
from analysis.fitting.design import BLURRED, condition_number
from analysis.fitting.run_arrays import RunArrays
from analysis.fitting.solver import Solution
from analysis.laws.base import Array, Law, Problem
from analysis.results import Convergence

#: Two starts ended in one optimum when their objectives agree to this share.
SAME_OPTIMUM = 1e-6
#: A second optimum within this share of the best one fits as well as makes no difference.
AS_GOOD = 0.01


def gather(law: Law, problem: Problem, solution: Solution, best: int) -> Convergence:
    """Gradient, bound hits, and the optima that the starts of `solution` ended in."""
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
        condition_number=condition_number(problem, theta, felt_only=True),
        unfelt=unfelt(problem, theta),
    )


def unfelt(problem: Problem, theta_P: Array) -> tuple[str, ...]:
    """Parameters that no run's loss depends on there, by name: R_N* where no size is beyond what its data can use."""
    _, jacobian = problem.evaluate(theta_P[None])
    return tuple(name for name, column in zip(problem.coordinates, jacobian[0], strict=True) if not column.any())


def doubts(evidence: Convergence, *, converged: bool, exact: bool) -> list[str]:
    """Warnings about the optimum; `exact` says that the law goes through the runs, which leaves no second one to fear."""
    said = []
    if not converged:
        said.append(f"the optimum is not exact: the gradient's norm is {evidence.gradient_norm:.2g}")
    if evidence.bound_hits:
        said.append(f"the fit ended on a bound: {', '.join(evidence.bound_hits)}; these runs don't determine it")
    if evidence.unfelt:
        one = len(evidence.unfelt) == 1
        said.append(
            f"no run feels {' or '.join(evidence.unfelt)}: these runs say nothing of {'it' if one else 'them'}, so "
            f"{'it has' if one else 'they have'} no interval, and the value{'' if one else 's'} given "
            f"{'is' if one else 'are'} where the solver started"
        )
    if evidence.next_best_gap is not None and evidence.next_best_gap < AS_GOOD and not exact:
        said.append(
            f"another optimum fits almost as well ({evidence.next_best_gap:.2%} above): these runs hardly tell the two apart"
        )
    if evidence.condition_number > BLURRED:
        said.append(
            f"at the optimum the parameters blur (condition number {evidence.condition_number:.2g}): quote decisions, not "
            "single parameters"
        )
    return said


def about_law(law: Law, runs: RunArrays, counting: str) -> list[str]:
    """Remarks where the runs are not what the law was stated for: another count of N, or data that repeat."""
    said = []
    if counting != law.counting:
        said.append(
            f"N is {counting} here, and the law {law.name} was stated for {law.counting} ({law.source}): its parameters are "
            "not to be held against published ones"
        )
    if runs.unique_tokens is not None and not law.uses_unique_tokens:
        epochs = runs.n_tokens / runs.unique_tokens
        if (epochs > 1).any():
            said.append(
                f"{int((epochs > 1).sum())} of {len(epochs)} runs repeat their data (up to {epochs.max():.3g} epochs), "
                f"which the law {law.name} doesn't know: what repetition costs is put down to D. The law data_constrained "
                "tells them apart"
            )
    return said


def misfit(runs: pd.DataFrame, residual_sd: float) -> list[str]:
    """A warning where the law misses the runs by far more than seeds differ."""
    noise = seed_noise(runs)
    if noise is None or noise.degrees_of_freedom < 4 or residual_sd <= 2 * noise.sd:
        return []
    return [
        f"the law misses the runs by {residual_sd:.2%}, more than twice the noise between seeds ({noise.sd:.2%}): "
        "its form or the training recipe is off somewhere; look at the residuals"
    ]
