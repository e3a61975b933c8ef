"""Newton's method for many fits of one law at once: starts of one fit, or resamples of a bootstrap.

Huber's loss with a small threshold is nearly |r|: only the few runs inside it have curvature, and a plain Newton step jumps
too far. So the step solves (H + mu M) s = -g, where M is the matrix of iteratively reweighted least squares (Huber 1981), a
majorizer with which any step goes down as far as residuals are linear. mu falls while steps succeed, which leaves Newton and
its quadratic end, and rises when one fails. The threshold comes down in stages. Everything is batched over K in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.objective import Objective
from analysis.laws.base import Array, Problem

#: Rounding of a residual, in ulps of 1: a law's few powers and the logarithm of their sum.
RESIDUAL_ULPS = 8
#: Above this damping a small predicted decrease only says that the step is short.
MU_HONEST = 1.0
#: Norm of the gradient over delta^2 at which a problem is done; one run outside the threshold alone weighs 1/delta.
GRADIENT_TOLERANCE = 1e-6
#: The delta in that, for least squares, which has none.
LEAST_SQUARES_UNIT = 1e-3
#: Steps of a stage before the last, which need not be exact, and of the last.
STAGE_STEPS = 40
MAX_STEPS = 1000
MU_START, MU_LIMIT = 0.1, 1e8
#: Problems solved together: their arrays stay in the cache.
CHUNK_VALUES = 30_000


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Where K problems ended. `gradient_norm_K` is over delta^2 (r^2 for least squares) and over free directions only.

    Converged are those of a small gradient, and those whose best step would gain less than the value's own rounding.
    """

    theta_KP: Array
    value_K: Array
    gradient_norm_K: Array
    converged_K: NDArray[np.bool_]


def minimise(
    problem: Problem, objective: Objective, loss_Kn: Array, weight_Kn: Array, theta_KP: Array, stages: tuple[float, ...]
) -> Solution:
    """Minimise `objective` from each of `theta_KP`, through Huber thresholds `stages`.

    `loss_Kn` is over the problem's scale; `loss_Kn` and `weight_Kn` may have one row for all K.
    """
    k, n = len(theta_KP), loss_Kn.shape[1]
    chunk = max(1, CHUNK_VALUES // n)
    parts = [
        _minimise_chunk(
            problem,
            objective,
            np.broadcast_to(loss_Kn, (k, n))[start : start + chunk],
            np.broadcast_to(weight_Kn, (k, n))[start : start + chunk],
            theta_KP[start : start + chunk],
            stages,
        )
        for start in range(0, k, chunk)
    ]
    return Solution(
        theta_KP=np.concatenate([part.theta_KP for part in parts]),
        value_K=np.concatenate([part.value_K for part in parts]),
        gradient_norm_K=np.concatenate([part.gradient_norm_K for part in parts]),
        converged_K=np.concatenate([part.converged_K for part in parts]),
    )


def _minimise_chunk(
    problem: Problem, objective: Objective, loss_Kn: Array, weight_Kn: Array, theta_KP: Array, stages: tuple[float, ...]
) -> Solution:
    theta = np.clip(theta_KP, problem.lower_P, problem.upper_P)
    norm = np.empty(len(theta))
    exhausted = np.zeros(len(theta), dtype=np.bool_)
    for stage, delta in enumerate(stages):
        last = stage == len(stages) - 1
        state = _State(problem, objective.is_log, delta, loss_Kn, weight_Kn, theta)
        for _ in range(MAX_STEPS if last else STAGE_STEPS):
            running = (state.norm > state.tolerance) & (state.mu < MU_LIMIT) & ~state.exhausted
            if not running.all():
                theta[state.index], norm[state.index] = state.theta, state.norm
                exhausted[state.index] = state.exhausted
                state.keep(running)
            if not len(state.index):
                break
            state.step()
        theta[state.index], norm[state.index] = state.theta, state.norm
        exhausted[state.index] = state.exhausted
    predicted, _ = problem.evaluate(theta)
    residual = np.log(predicted / loss_Kn) if objective.is_log else (predicted - loss_Kn) * problem.scale
    return Solution(
        theta_KP=theta,
        value_K=objective.value(residual, weight_Kn),
        gradient_norm_K=norm,
        converged_K=(norm <= 10 * state.tolerance) | exhausted,
    )


#: Arrays of `_State` with an axis of K.
KEPT = (
    *("index", "theta", "mu", "measured", "weight", "predicted", "jacobian"),
    *("residual", "value", "rounding", "slope", "gradient", "free", "norm", "exhausted"),
)


class _State:
    """The problems of a chunk that still move, at one threshold."""

    slope: Array
    """The value's derivative by the scaled loss of each run."""
    gradient: Array
    free: NDArray[np.bool_]
    """Coordinates that aren't held at a bound by the gradient."""
    norm: Array

    def __init__(
        self, problem: Problem, is_log: bool, delta: float, loss_Kn: Array, weight_Kn: Array, theta_KP: Array
    ) -> None:
        self.problem, self.is_log, self.delta = problem, is_log, delta
        self.unit = (delta if np.isfinite(delta) else LEAST_SQUARES_UNIT) ** 2
        # Below this the gradient is rounding: residuals are known to 1e-16, and so are slopes inside the threshold.
        rounding = 20 * np.finfo(float).eps * np.sqrt(loss_Kn.shape[1]) / self.unit
        self.tolerance = max(GRADIENT_TOLERANCE, rounding)
        self.index = np.arange(len(theta_KP))
        self.measured, self.weight, self.theta = loss_Kn, weight_Kn, theta_KP.copy()
        self.mu = np.full(len(theta_KP), MU_START)
        self.predicted, self.jacobian = problem.evaluate(self.theta)
        self.residual, self.value, self.rounding = self._residual(self.predicted, loss_Kn, weight_Kn)
        self.exhausted = np.zeros(len(theta_KP), dtype=np.bool_)
        self._refresh_gradient()

    def keep(self, running_K: NDArray[np.bool_]) -> None:
        for name in KEPT:
            setattr(self, name, getattr(self, name)[running_K])

    def _residual(self, predicted: Array, measured: Array, weight: Array) -> tuple[Array, Array, Array]:
        """r, the sum of Huber's loss and that sum's rounding; an overflow makes the sum infinite: the step is refused."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            residual = np.log(predicted / measured) if self.is_log else predicted - measured
            size = np.abs(residual)
            inside = np.minimum(size, self.delta)
            value = (weight * (inside * (size - inside / 2))).sum(axis=1)
            rounding = RESIDUAL_ULPS * np.finfo(float).eps * (weight * inside).sum(axis=1)
        return residual, np.where(np.isfinite(value), value, np.inf), rounding

    def _refresh_gradient(self) -> None:
        slope = self.weight * np.clip(self.residual, -self.delta, self.delta)
        if self.is_log:
            slope = slope / self.predicted
        self.slope = slope
        self.gradient = (self.jacobian @ slope[:, :, None])[:, :, 0]
        pushed_out = ((self.theta <= self.problem.lower_P) & (self.gradient > 0)) | (
            (self.theta >= self.problem.upper_P) & (self.gradient < 0)
        )
        self.free = ~pushed_out
        self.norm = np.linalg.norm(self.gradient * self.free, axis=1) / self.unit

    def step(self) -> None:
        """One damped Newton step of every problem; refused where it does not go down."""
        size = np.abs(self.residual)
        majorizer = self.delta / np.maximum(size, self.delta) if np.isfinite(self.delta) else np.ones_like(size)
        gram = self.weight * ((size <= self.delta) + self.mu[:, None] * majorizer)
        if self.is_log:
            # The Hessian of log L is that of L over L, less the outer product of log L's gradient.
            gram = gram / self.predicted**2 - self.slope / self.predicted
        hessian = (self.jacobian * gram[:, None]) @ self.jacobian.transpose(0, 2, 1)
        hessian += self.problem.curvature(self.theta, self.jacobian, self.slope)
        # Held coordinates drop out: their row and column become those of the identity.
        both = self.free[:, :, None] & self.free[:, None, :]
        diagonal = np.arange(hessian.shape[1])
        hessian = np.where(both, hessian, 0.0)
        hessian[:, diagonal, diagonal] += np.where(self.free, 1e-14, 1.0)
        step, decrease = self._bounded_step(hessian)
        theta = np.clip(self.theta + step, self.problem.lower_P, self.problem.upper_P)
        with np.errstate(over="ignore", invalid="ignore"):
            predicted, jacobian = self.problem.evaluate(theta)
        residual, value, rounding = self._residual(predicted, self.measured, self.weight)
        # Near the optimum a good step changes the value by less than its rounding.
        better = (decrease > 0) & (value <= self.value + self.rounding)
        at_the_floor = (decrease > 0) & (decrease <= self.rounding) & (self.mu <= MU_HONEST)
        before = self.norm
        self.mu = np.where(better, np.maximum(self.mu * 0.2, 1e-12), self.mu * 5)
        self.theta[better], self.predicted[better], self.jacobian[better] = (
            theta[better],
            predicted[better],
            jacobian[better],
        )
        self.residual[better], self.value[better], self.rounding[better] = (
            residual[better],
            value[better],
            rounding[better],
        )
        self._refresh_gradient()
        # Such a step may still shrink the gradient; where it no longer does, this is the optimum as doubles know it.
        self.exhausted = at_the_floor & (~better | (self.norm > before / 2))

    def _bounded_step(self, hessian: Array) -> tuple[Array, Array]:
        """The Newton step, and by how much it should lower the value (a saddle's does not, and wants a larger mu).

        Coordinates that it would carry past a bound stop there, and the others are solved again: clipping alone would leave
        them where they only make sense together with the clipped one.
        """
        right = -self.gradient * self.free
        step = _solve(hessian, right)
        decrease = (right * step).sum(axis=1) / 2
        low, high = self.problem.lower_P - self.theta, self.problem.upper_P - self.theta
        crossing = (step < low) | (step > high)
        rows = crossing.any(axis=1)
        if rows.any():
            pinned = crossing[rows]
            matrix = np.where(pinned[:, :, None], np.eye(hessian.shape[1]), hessian[rows])
            step[rows] = _solve(matrix, np.where(pinned, np.clip(step, low, high)[rows], right[rows]))
        return step, decrease


def _solve(matrix_KPP: Array, right_KP: Array) -> Array:
    """Solve K systems; a singular one gives no step."""
    try:
        return np.asarray(np.linalg.solve(matrix_KPP, right_KP[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        return np.asarray((np.linalg.pinv(matrix_KPP) @ right_KP[:, :, None])[:, :, 0])
