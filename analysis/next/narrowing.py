"""How much runs not yet made would narrow what a law's fit says: the expected error of the fit that is really made.

`fit` weighs runs as its objective does and knows nothing of what the law misses. About a law it is linear in the log losses
y of its runs: a quantity with derivatives g by the parameters comes out as w' y, with

    w = W J M^-1 g,    M = J' W J + Lambda

J the derivatives of log loss, W the runs' weights over total^2, total^2 the variance of residuals, Lambda what is known of a
law beforehand. What is measured is y = J theta + misfit + noise, with the covariance S (`run_noise`: a Gaussian process for
the misfit, seeds, trunks), so that the fit is expected to be off by

    k - 2 w' c + w' S w + b' Lambda^-1 b,    b = g - J' w

(mean squared error of a linear smoother under a misspecified model: Sacks and Ylvisaker 1978; the weights would be those of
universal kriging were the misfit known to the fit). c is the misfit's covariance between the runs and the place whose loss is
asked, and k its variance there; both are 0 for a quantity of the law alone. A crowd of cheap runs pulls the fit to where the
law is right for them, and so may do harm; with no misfit and no Lambda this is the variance g' M^-1 g of V-optimal
(c-optimal) design (Fedorov 1972). A law isn't linear: the error is taken at each of its resamples, and the share that is
left is their geometric mean, which no single wild law decides.

Axes: K resamples, P parameters, n made runs, m candidates, u = n + m, S sets of runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.information import relative_jacobian
from analysis.fitting.run_noise import DesignRuns, RunNoise, covariance_within, misfit_covariance
from analysis.laws.base import Array, Law

#: Sd of a law's parameters, as relative changes, before any run is made, in sds of the residuals: where these are 1 %, by as
#: much as itself. Chosen on synthetic tables, as is said in docs/next.md.
PRIOR_SD = 100.0
#: Values of one array in the search: sets are weighed in chunks of so many.
CHUNK_VALUES = 2_000_000


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
    weight_n: Array | None = None
    """Of the made runs in the fit; None: 1 each, as a candidate's."""

    def left(self, goal: Goal, chosen: NDArray[np.intp]) -> float:
        """Share of the goal's expected squared error that is left once the candidates `chosen` are made too."""
        chosen_Sm = np.zeros((1, len(self.candidates)), dtype=np.bool_)
        chosen_Sm[0, chosen] = True
        return float(self.left_by_sets(goal, chosen_Sm)[0])

    def shares(self, goal: Goal) -> Array:
        """Share that each candidate would take away by itself (m,); below 0 where it would do harm."""
        return 1 - self.left_by_sets(goal, np.eye(len(self.candidates), dtype=np.bool_))

    def left_by_sets(self, goal: Goal, chosen_Sm: NDArray[np.bool_]) -> Array:
        """`left` of many sets at once (S,)."""
        none = np.zeros((1, len(self.candidates)), dtype=np.bool_)
        before_K1 = self._error(goal, none)
        size = max(1, CHUNK_VALUES // (len(self.params_KP) * (len(self.made) + len(self.candidates))))
        parts = [
            np.exp(np.log(self._error(goal, chosen_Sm[start : start + size]) / before_K1).mean(0))
            for start in range(0, len(chosen_Sm), size)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _error(self, goal: Goal, chosen_Sm: NDArray[np.bool_]) -> Array:
        """Expected squared error of the goal (K, S) with the made runs and each set of candidates."""
        in_Su = np.concatenate([np.ones((len(chosen_Sm), len(self.made)), dtype=np.bool_), chosen_Sm], axis=1)
        laws, parameters = self.params_KP.shape
        outer_KuQ = (self._jacobian_KuP[..., :, None] * self._scaled_KuP[..., None, :]).reshape(laws, -1, parameters**2)
        information_KSPP = (in_Su @ outer_KuQ).reshape(laws, -1, parameters, parameters)
        prior = PRIOR_SD**2 * self._total
        information_KSPP = information_KSPP + np.eye(parameters) / prior
        goal_KSP1 = np.broadcast_to(goal.gradient_KP[:, None, :, None], (*information_KSPP.shape[:2], parameters, 1))
        solved_KSP = np.linalg.solve(information_KSPP, goal_KSP1)[..., 0]
        weights_KSu = (solved_KSP @ self._scaled_KuP.swapaxes(1, 2)) * in_Su
        missed_KSP = goal.gradient_KP[:, None] - weights_KSu @ self._jacobian_KuP
        error_KS = ((weights_KSu @ self._covariance_uu) * weights_KSu).sum(-1) + prior * (missed_KSP**2).sum(-1)
        if goal.place is not None:
            shared_u = misfit_covariance(self._all, goal.place, self.noise)[:, 0]
            error_KS += self.noise.misfit_sd**2 - 2 * weights_KSu @ shared_u
        return np.asarray(np.maximum(error_KS, np.finfo(float).tiny))

    @cached_property
    def _all(self) -> DesignRuns:
        return self.made + self.candidates

    @cached_property
    def _covariance_uu(self) -> Array:
        return covariance_within(self._all, self.noise)

    @cached_property
    def _jacobian_KuP(self) -> Array:
        return relative_jacobian(self.law, self.params_KP, self._all)

    @cached_property
    def _scaled_KuP(self) -> Array:
        """The derivatives times the fit's weights over the residuals' variance."""
        made_n = np.ones(len(self.made)) if self.weight_n is None else self.weight_n
        weight_u = np.concatenate([made_n, np.ones(len(self.candidates))])
        return np.asarray(self._jacobian_KuP * (weight_u / self._total)[:, None])

    @property
    def _total(self) -> float:
        """Variance of a typical run's log loss about the law."""
        return self.noise.sd**2 + self.noise.misfit_sd**2
