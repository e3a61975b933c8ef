"""How much runs not yet made would narrow a quantity that is read off the law: V-optimal design, run by run.

Made runs have the derivatives J of log loss by the parameters and the noise's covariance S; a run j more has g_j and the
covariance c_j with them. Given the made ones its noise has what is left of both:

    g~ = g_j - J' S^-1 c_j,    s = S_jj - c_j' S^-1 c_j,    V = (J' S^-1 J)^-1

and with q the quantity's derivatives its variance q' V q falls by (q' V g~)^2 / (s + g~' V g~): the rank-one update that
sequential and exchange algorithms rest on (Fedorov 1972, chapter 3; Silvey 1980, chapter 3). V-optimal designs make q' V q
least; of one quantity alone that is c-optimality. The law isn't linear, so V and q are taken at each of the bootstrap's
resamples, and the share of the variance that is taken away is averaged over them (Chaloner and Verdinelli 1995, section 4).
A loss at a target is the law's there and what the law misses there, which runs near the target tell as well (universal kriging:
Sacks et al. 1989).

Axes: K resamples, P parameters, n made runs, m candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.information import relative_jacobian
from analysis.fitting.run_noise import (
    DesignRuns,
    RunNoise,
    covariance,
    covariance_within,
    misfit_covariance,
    variance,
)
from analysis.laws.base import Array, Law

#: Precision that is added of what a unit-length column of the information knows: made runs may leave a direction open.
RIDGE = 1e-9
#: A run that takes less than this share of what is left tells nothing that a person would wait for, however cheap.
LEAST_SHARE = 0.01
#: Powers of cost that runs are ranked by for a sum to be spent: variance alone, half way, and variance for its cost.
POWERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The quantity to be narrowed."""

    gradient_KP: Array
    """By relative changes of the parameters, at each resample."""
    place: DesignRuns | None = None
    """The run whose loss it is, with what the law misses there; None: a quantity of the law alone."""


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """Runs to be chosen from, and what they would do to a goal."""

    law: Law
    params_KP: Array
    made: DesignRuns
    candidates: DesignRuns
    noise: RunNoise

    def left(self, goal: Goal, chosen: NDArray[np.intp]) -> float:
        """Share of the goal's variance that is left once the candidates `chosen` are made too, averaged over resamples."""
        before, after = self._variance(goal, self.made), self._variance(goal, self.made + self.candidates.take(chosen))
        return float(np.mean(after / before))

    def shares(self, goal: Goal, chosen: NDArray[np.intp]) -> Array:
        """Share of the variance, after `chosen`, that each candidate would take away by itself (m,)."""
        made = self.made + self.candidates.take(chosen)
        weights_nm, left_m, information_KPP, jacobian_KnP = self._given(made, self.candidates)
        cov_KPP = _inverse(information_KPP)
        seen_KmP = relative_jacobian(self.law, self.params_KP, self.candidates) - np.einsum(
            "knp,nm->kmp", jacobian_KnP, weights_nm, optimize=True
        )
        by_cov_KmP = seen_KmP @ cov_KPP
        goal_KP, kept, shared_m = self._goal(goal, made, jacobian_KnP, weights_nm)
        moved_Km = np.einsum("kmp,kp->km", by_cov_KmP, goal_KP) + shared_m
        taken_Km = moved_Km**2 / (left_m + (by_cov_KmP * seen_KmP).sum(-1))
        return np.asarray((taken_Km / (_quadratic(cov_KPP, goal_KP) + kept)[:, None]).mean(0))

    def _variance(self, goal: Goal, made: DesignRuns) -> Array:
        """Of the goal at each resample (K,)."""
        _, _, information_KPP, jacobian_KnP = self._given(made, self.candidates.take(np.zeros(0, dtype=np.intp)))
        goal_KP, kept, _ = self._goal(goal, made, jacobian_KnP, np.zeros((len(made), 0)))
        return _quadratic(_inverse(information_KPP), goal_KP) + kept

    def _given(self, made: DesignRuns, others: DesignRuns) -> tuple[Array, Array, Array, Array]:
        """S^-1 c (n, m), s (m,), J' S^-1 J (K, P, P) and J (K, n, P)."""
        inverse_nn = np.linalg.inv(covariance_within(made, self.noise))
        shared_nm = covariance(made, others, self.noise)
        weights_nm = inverse_nn @ shared_nm
        left_m = variance(others, self.noise) - (shared_nm * weights_nm).sum(0)
        jacobian_KnP = relative_jacobian(self.law, self.params_KP, made)
        information_KPP = np.einsum("knp,nm,kmq->kpq", jacobian_KnP, inverse_nn, jacobian_KnP, optimize=True)
        return weights_nm, left_m, information_KPP, jacobian_KnP

    def _goal(self, goal: Goal, made: DesignRuns, jacobian_KnP: Array, weights_nm: Array) -> tuple[Array, float, Array]:
        """The goal's derivatives, its own variance and its covariance with each candidate, all given the made runs."""
        if goal.place is None:
            return goal.gradient_KP, 0.0, np.zeros(weights_nm.shape[1])
        inverse_nn = np.linalg.inv(covariance_within(made, self.noise))
        missed_n = misfit_covariance(made, goal.place, self.noise)[:, 0]
        by_made_n = inverse_nn @ missed_n
        kept = self.noise.misfit_sd**2 - float(missed_n @ by_made_n)
        shared_m = np.zeros(weights_nm.shape[1])
        if len(shared_m):
            shared_m = misfit_covariance(self.candidates, goal.place, self.noise)[:, 0] - missed_n @ weights_nm
        gradient_KP = goal.gradient_KP - np.einsum("knp,n->kp", jacobian_KnP, by_made_n)
        return gradient_KP, max(kept, 0.0), shared_m


def best_for_cost(
    narrowing: Narrowing, goal: Goal, cost_m: Array, *, runs: int | None = None, spend: float | None = None
) -> NDArray[np.intp]:
    """Candidates to make next, in order.

    With `runs`, greedily the one that takes the largest share of the variance for its cost, up to so many times: runs that take
    less than `LEAST_SHARE` of what is left are never named. With `spend`, the
    best of three greedy sets within that sum, ranked by share over cost^0, ^1/2 and ^1: for set functions of falling gains the
    better of the first and last is at least 0.316 of the best set (Khuller, Moss and Naor 1999; Leskovec et al. 2007), which
    either alone is not. That set then stands in the order of share for cost, so that whoever stops early has spent little.
    """
    if runs is not None:
        return _greedy(narrowing, goal, cost_m, 1.0, runs=runs, spend=spend)
    sets = [_greedy(narrowing, goal, cost_m, power, runs=None, spend=spend) for power in POWERS]
    best = min(sets, key=lambda chosen: narrowing.left(goal, chosen))
    return _greedy(narrowing, goal, cost_m, 1.0, runs=None, spend=spend, among=best)


def _greedy(
    narrowing: Narrowing,
    goal: Goal,
    cost_m: Array,
    power: float,
    *,
    runs: int | None,
    spend: float | None,
    among: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    open_m = np.ones(len(cost_m), dtype=np.bool_)
    if among is not None:
        open_m[:] = False
        open_m[among] = True
    chosen: list[int] = []
    left = np.inf if spend is None else spend
    while len(chosen) < (len(cost_m) if runs is None else runs):
        affordable_m = open_m & (cost_m <= left * (1 + 1e-12))
        if not affordable_m.any():
            break
        share_m = narrowing.shares(goal, np.array(chosen, dtype=np.intp))
        # What was chosen as a set is put in order to its last run.
        tells_m = affordable_m if among is not None else affordable_m & (share_m >= LEAST_SHARE)
        if not tells_m.any():
            break
        best = int(np.argmax(np.where(tells_m, share_m / cost_m**power, -1.0)))
        chosen.append(best)
        open_m[best] = False
        left -= float(cost_m[best])
    return np.array(chosen, dtype=np.intp)


def _inverse(information_KPP: Array) -> Array:
    """V, with a hair of precision where the runs tell nothing."""
    root_KP = np.sqrt(np.einsum("kpp->kp", information_KPP))
    root_KP = np.where(root_KP > 0, root_KP, 1.0)
    outer_KPP = root_KP[:, :, None] * root_KP[:, None, :]
    return np.asarray(np.linalg.inv(information_KPP / outer_KPP + RIDGE * np.eye(root_KP.shape[1])) / outer_KPP)


def _quadratic(cov_KPP: Array, goal_KP: Array) -> Array:
    return np.asarray(np.einsum("kp,kpq,kq->k", goal_KP, cov_KPP, goal_KP))
