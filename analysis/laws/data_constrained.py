"""The data-constrained law (Muennighoff et al. 2023, arXiv 2305.16264, section 3).

L = E + A N'^-alpha + B D'^-alpha, where D' is what D tokens out of U unique ones are worth and N' the same of N parameters
out of those that U tokens can use, N_opt(U) = (A/B)^(1/alpha) U: the size whose compute-optimal data are U. As the authors
do, one exponent serves both terms. Where nothing repeats and U is endless it is Chinchilla's law with alpha = beta.

U is the corpus a run drew from. Their runs have D >= U; a run of D < U is taken as having U at its disposal, so that the law is
continuous in U and reaches Chinchilla's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum, Problem, Repetition, power_sum_gradient
from analysis.laws.power_sum import (
    BY_DATA,
    BY_SIZE,
    EXPONENT_BOUNDS,
    LOG_TD,
    LOG_TN,
    POWER,
    E,
    PowerSumProblem,
    coordinates,
)
from analysis.laws.repetition import R_D_STAR, R_N_STAR, effective_tokens
from llama.errors import UserError

#: The largest R* told apart from repetition that costs nothing, and the smallest from repetition that brings nothing.
R_STAR_BOUNDS = (0.05, 5_000.0)
#: Starts of R_D* and R_N*: theirs over and times a few.
START_R_D, START_R_N = (R_D_STAR / 4, R_D_STAR, 4 * R_D_STAR), (R_N_STAR, 10 * R_N_STAR)
STARTS_EACH = 2
#: A run must see its data this often, and this many runs must see theirs more than once.
MIN_EPOCHS, MIN_REPEATING = 2.0, 3
#: Step of the curvature's central differences: the cube root of a double's precision, where their errors are least.
DIFFERENCE = 6e-6


class Discount(NamedTuple):
    """ln x' of an x of which `unique` are fresh, its elasticity by x, and its derivative by ln R*. 1 - elasticity is that by
    ln unique."""

    log_effective: Array
    elasticity: Array
    by_log_r: Array


def discount(log_x: Array, log_unique: Array, r_star: Array) -> Discount:
    # Sizes far beyond any use: what they add is 0 long before exp overflows.
    excess = np.maximum(np.expm1(np.minimum(log_x - log_unique, 500.0)), 0.0)
    decay = np.exp(-excess / r_star)
    worth = 1 - r_star * np.expm1(-excess / r_star)
    return Discount(
        log_effective=np.minimum(log_x, log_unique) + np.log(worth),
        elasticity=(1 + excess) * decay / worth,
        by_log_r=(worth - 1 - excess * decay) / worth,
    )


def _usable_per_token(log_a: Array, log_b: Array, alpha: Array) -> Array:
    """N_opt(U)/U; resamples gone astray have it beyond what doubles hold."""
    return np.asarray(np.exp(np.clip((log_a - log_b) / alpha, -500.0, 500.0)))


class DataConstrainedProblem(Problem):
    """theta = (E/s, a, b, alpha, ln R_D*, ln R_N*): the power sum's coordinates with n and d replaced by centred ln N', ln D'.

    The Jacobian is analytic; the curvature is its central differences, since N' has a second derivative that jumps where
    N = N_opt(U), and N_opt moves with A, B and alpha.
    """

    coordinates = ("E", "A", "B", "alpha", "R_D_star", "R_N_star")

    def __init__(self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array) -> None:
        self.log_n_n, self.log_d_n, self.log_u_n = np.log(n_params_n), np.log(n_tokens_n), np.log(unique_tokens_n)
        self.center_n, self.center_d = float(self.log_n_n.mean()), float(self.log_d_n.mean())
        self.scale = float(np.exp(np.log(loss_n).mean()))
        low, high = np.log(R_STAR_BOUNDS)
        self.lower_P = np.array([0.0, -40.0, -40.0, EXPONENT_BOUNDS[0], low, low])
        self.upper_P = np.array([np.inf, 10.0, 10.0, EXPONENT_BOUNDS[1], high, high])

    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        e, a, b, alpha, log_r_d, log_r_n = theta_KP.T[:, :, None]
        # ln N_opt(U) = (ln A - ln B)/alpha + ln U, in centred coordinates.
        log_ratio = (a - b) / alpha
        size = discount(self.log_n_n, log_ratio + self.center_n - self.center_d + self.log_u_n, np.exp(log_r_n))
        data = discount(self.log_d_n, self.log_u_n, np.exp(log_r_d))
        n, d = size.log_effective - self.center_n, data.log_effective - self.center_d
        term_n, term_d = np.exp(a - alpha * n), np.exp(b - alpha * d)
        beyond = term_n * (1 - size.elasticity)
        jacobian = np.stack(
            [
                np.ones_like(term_n),
                term_n * size.elasticity,
                term_d + beyond,
                -n * term_n - d * term_d + beyond * log_ratio,
                -alpha * term_d * data.by_log_r,
                -alpha * term_n * size.by_log_r,
            ],
            axis=1,
        )
        return e + term_n + term_d, jacobian

    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        hessian = np.empty((len(theta_KP), 6, 6))
        for column in range(6):
            step = np.zeros(6)
            step[column] = DIFFERENCE
            difference = self.evaluate(theta_KP + step)[1] - self.evaluate(theta_KP - step)[1]
            hessian[:, column] = (difference @ q_Kn[:, :, None])[:, :, 0] / (2 * DIFFERENCE)
        return (hessian + hessian.transpose(0, 2, 1)) / 2

    def to_params(self, theta_KP: Array) -> Array:
        e, a, b, alpha, log_r_d, log_r_n = theta_KP.T
        amplitudes = np.exp(a + alpha * self.center_n), np.exp(b + alpha * self.center_d)
        return np.stack(
            [*(self.scale * x for x in amplitudes), self.scale * e, alpha, np.exp(log_r_d), np.exp(log_r_n)], axis=1
        )

    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """At each R_D* and R_N*, the power sum's starts with D', and with N' by the N_opt(U) of those before.

        Where no size is beyond N_opt(U) nothing hangs on R_N*, and it starts, and stays, at the first alone.
        """
        size, unique = np.exp(self.log_n_n), np.exp(self.log_u_n)
        found = []
        for r_d in START_R_D:
            fresh = effective_tokens(np.exp(self.log_d_n), unique, r_d)
            _, log_a, log_b, alpha = _plain_starts(size, fresh, loss_n, weight_n)[0]
            usable = _usable_per_token(log_a, log_b, alpha) * unique
            for r_n in START_R_N if (size > usable).any() else START_R_N[:1]:
                plain = _plain_starts(effective_tokens(size, usable, r_n), fresh, loss_n, weight_n)[:STARTS_EACH]
                e, log_a_K, log_b_K, alpha_K = plain.T
                theta = [
                    e,
                    log_a_K - alpha_K * self.center_n,
                    log_b_K - alpha_K * self.center_d,
                    alpha_K,
                    np.full_like(e, np.log(r_d)),
                    np.full_like(e, np.log(r_n)),
                ]
                found.append(np.stack(theta, axis=1))
        return np.concatenate(found)


def _plain_starts(n_params_n: Array, n_tokens_n: Array, loss_n: Array, weight_n: Array) -> Array:
    """Starts (K, 4) of E, ln A, ln B and alpha, of the law where nothing repeats: A and B of steep ones are beyond a double."""
    plain = PowerSumProblem(
        coordinates(
            lambda shape: np.stack([shape.E, shape.A, shape.B, shape.alpha], axis=-1),
            ("E", (E,)),
            ("A", (LOG_TN,)),
            ("B", (LOG_TD,)),
            ("alpha", (BY_SIZE, BY_DATA)),
            fixed={POWER: 1.0},
        ),
        n_params_n,
        n_tokens_n,
        loss_n,
    )
    e, a, b, alpha = plain.starts(loss_n / plain.scale, weight_n).T
    log_scale = np.log(plain.scale)
    return np.stack(
        [
            plain.scale * e,
            log_scale + a + alpha * plain.center_n,
            log_scale + b + alpha * plain.center_d,
            alpha,
        ],
        axis=1,
    )


class DataConstrained(Law):
    """L(N, D, U) = E + A N'^-alpha + B D'^-alpha."""

    name = "data_constrained"
    source = "Muennighoff et al. 2023 (arXiv 2305.16264), section 3"
    form = "L = E + A N'^-alpha + B D'^-alpha"
    parameters = (
        Parameter(name="A", unit="nats * parameters^alpha", meaning="amplitude of what a finite size costs"),
        Parameter(name="B", unit="nats * tokens^alpha", meaning="amplitude of what finite data cost"),
        Parameter(name="E", unit="nats a token", meaning="loss at infinite size and data"),
        Parameter(name="alpha", unit="1", meaning="exponent of size and of data"),
        Parameter(name="R_D_star", unit="repetitions", meaning="after which 1 - 1/e of what repeating can give is had"),
        Parameter(name="R_N_star", unit="1", meaning="the same of parameters beyond what the data can use"),
    )
    counting = "n_params"
    uses_unique_tokens = True

    def shape(self, params_KP: Array) -> PowerSum:
        a, b, e, alpha, _, _ = np.moveaxis(params_KP, -1, 0)
        return PowerSum(a, b, e, alpha, alpha, np.ones_like(a))

    def shape_gradient(self, params_KP: Array) -> Array:
        gradient = np.zeros((6, 6))
        gradient[[0, 1, 2, 3, 3], [0, 1, 2, 3, 4]] = 1.0
        return gradient

    def repetition(self, params_KP: Array, unique_tokens: Array | float) -> Repetition:
        a, b, _, alpha, r_d, r_n = np.moveaxis(params_KP, -1, 0)
        return Repetition(_usable_per_token(np.log(a), np.log(b), alpha) * unique_tokens, r_n, unique_tokens, r_d)

    def gradient(
        self,
        params_KP: Array,
        n_params: Array | float,
        n_tokens: Array | float,
        unique_tokens: Array | float = np.inf,
    ) -> Array:
        if not self._repeats(unique_tokens):
            return super().gradient(params_KP, n_params, n_tokens)
        a, b, _, alpha, _, _ = np.moveaxis(params_KP, -1, 0)
        known = self.repetition(params_KP, unique_tokens)
        size = discount(np.log(n_params), np.log(known.unique_params), np.asarray(known.r_n_star))
        data = discount(np.log(n_tokens), np.log(known.unique_tokens), np.asarray(known.r_d_star))
        n, d = np.exp(size.log_effective), np.exp(data.log_effective)
        by_shape = power_sum_gradient(self.shape(params_KP), n, d)
        gradient = np.array((self.shape_gradient(params_KP) @ by_shape[..., None])[..., 0])
        # dL/d ln N' and dL/d ln D', and what ln N_opt(U) = ln(A/B)/alpha + ln U does to N'.
        by_log_n, by_log_d = -alpha * a * np.power(n, -alpha), -alpha * b * np.power(d, -alpha)
        by_log_unique = by_log_n * (1 - size.elasticity)
        gradient[..., 0] += by_log_unique / (alpha * a)
        gradient[..., 1] -= by_log_unique / (alpha * b)
        gradient[..., 3] -= by_log_unique * np.log(a / b) / alpha**2
        gradient[..., 4] = by_log_d * data.by_log_r / known.r_d_star
        gradient[..., 5] = by_log_n * size.by_log_r / known.r_n_star
        return gradient

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> DataConstrainedProblem:
        self.check(n_params_n, n_tokens_n, unique_tokens_n)
        assert unique_tokens_n is not None
        return DataConstrainedProblem(n_params_n, n_tokens_n, loss_n, unique_tokens_n)

    def check(self, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None = None) -> None:
        super().check(n_params_n, n_tokens_n, unique_tokens_n)
        assert unique_tokens_n is not None
        epochs = n_tokens_n / unique_tokens_n
        if epochs.max() < MIN_EPOCHS or (epochs > 1).sum() < MIN_REPEATING:
            raise UserError(
                f"{int((epochs > 1).sum())} of {len(epochs)} runs repeat their data, at most {epochs.max():.3g} times over, so "
                f"the law {self.name} can't tell what repetition is worth: at least {MIN_REPEATING} runs must have more "
                f"tokens than unique_tokens, one of them {MIN_EPOCHS:g} times as many. Train some sizes on a smaller share "
                "of the data for 4 or more epochs, or fit the law chinchilla."
            )
