"""The Chinchilla law: L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, equation 2)."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum, Problem

#: Exponents stay in here. Fits that end on an edge say so: designs that can't identify the law send alpha to 27.
EXPONENT_BOUNDS = (0.005, 5.0)
#: Exponents of the grid of starts.
START_EXPONENTS = np.array([0.05, 0.12, 0.2, 0.3, 0.4, 0.52, 0.68, 0.88, 1.15, 1.5, 2.0])
MAX_STARTS = 6


class ChinchillaProblem(Problem):
    """theta = (E/s, a, b, alpha, beta) with L/s = E/s + exp(a - alpha n) + exp(b - beta d), n and d centred logs.

    E stays linear, so that E = 0 is a point and not a flat infinity; A and B are logs at the centre of the design, where
    they hardly correlate with their exponents.
    """

    coordinates = ("E", "A", "B", "alpha", "beta")

    def __init__(self, n_params_n: Array, n_tokens_n: Array, loss_n: Array) -> None:
        log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
        self.center_n, self.center_d = float(log_n.mean()), float(log_d.mean())
        self.n_n, self.d_n = log_n - self.center_n, log_d - self.center_d
        self.scale = float(np.exp(np.log(loss_n).mean()))
        self.lower_P = np.array([0.0, -40.0, -40.0, EXPONENT_BOUNDS[0], EXPONENT_BOUNDS[0]])
        self.upper_P = np.array([np.inf, 10.0, 10.0, EXPONENT_BOUNDS[1], EXPONENT_BOUNDS[1]])

    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        theta_KP1 = theta_KP[:, :, None]
        jacobian = np.empty((len(theta_KP), 5, len(self.n_n)))
        jacobian[:, 0] = 1.0
        term_n = np.exp(theta_KP1[:, 1] - theta_KP1[:, 3] * self.n_n, out=jacobian[:, 1])
        term_d = np.exp(theta_KP1[:, 2] - theta_KP1[:, 4] * self.d_n, out=jacobian[:, 2])
        np.multiply(term_n, -self.n_n, out=jacobian[:, 3])
        np.multiply(term_d, -self.d_n, out=jacobian[:, 4])
        return np.asarray(theta_KP1[:, 0] + term_n + term_d), jacobian

    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        # Each term is exp of a linear form (1, -x), so its Hessian is the term times the form's outer product.
        hessian = np.zeros((len(q_Kn), 5, 5))
        for amplitude, exponent, x_n in ((1, 3, self.n_n), (2, 4, self.d_n)):
            by_amplitude = np.einsum("kn,kn->k", q_Kn, jacobian_KPn[:, amplitude])
            by_exponent = np.einsum("kn,kn->k", q_Kn, jacobian_KPn[:, exponent])
            hessian[:, amplitude, amplitude] = by_amplitude
            hessian[:, amplitude, exponent] = hessian[:, exponent, amplitude] = by_exponent
            hessian[:, exponent, exponent] = -np.einsum("kn,kn,n->k", q_Kn, jacobian_KPn[:, exponent], x_n)
        return hessian

    def to_params(self, theta_KP: Array) -> Array:
        e, a, b, alpha, beta = theta_KP.T
        return np.stack(
            [
                self.scale * np.exp(a + alpha * self.center_n),
                self.scale * np.exp(b + beta * self.center_d),
                self.scale * e,
                alpha,
                beta,
            ],
            axis=1,
        )

    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """Variable projection: on a grid of (alpha, beta) the best amplitudes >= 0 by least squares of relative residuals;
        the grid's local minima, best first."""
        size = len(START_EXPONENTS)
        columns = np.empty((size, size, 3, len(loss_n)))
        columns[:, :, 0] = 1.0
        columns[:, :, 1] = np.exp(-START_EXPONENTS[:, None] * self.n_n)[:, None]
        columns[:, :, 2] = np.exp(-START_EXPONENTS[:, None] * self.d_n)[None]
        columns *= np.sqrt(weight_n) / loss_n
        amplitudes, cost = nonnegative_amplitudes(columns.reshape(size * size, 3, -1), np.sqrt(weight_n))
        cost = cost.reshape(size, size)
        padded = np.pad(cost, 1, constant_values=np.inf)
        neighbours = [
            padded[1 + i : 1 + i + size, 1 + j : 1 + j + size]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i, j) != (0, 0)
        ]
        lowest = np.flatnonzero((cost <= np.min(neighbours, axis=0)).ravel())
        order = lowest[np.argsort(cost.ravel()[lowest])][: MAX_STARTS // 2]
        # Corners of the best half of the grid as well, so that "all starts agree" means something.
        others = np.argsort(cost.ravel())[size * size // 20 : size * size // 2 : size * size // 8]
        chosen = np.concatenate([order, np.setdiff1d(others, order)])[:MAX_STARTS]
        floor = np.exp(-20.0)
        amplitude = amplitudes[chosen]
        theta = np.stack(
            [
                amplitude[:, 0],
                np.log(np.maximum(amplitude[:, 1], floor)),
                np.log(np.maximum(amplitude[:, 2], floor)),
                START_EXPONENTS[chosen // size],
                START_EXPONENTS[chosen % size],
            ],
            axis=1,
        )
        return np.asarray(theta, dtype=np.float64)


def nonnegative_amplitudes(columns_K3n: Array, target_n: Array) -> tuple[Array, Array]:
    """Non-negative least squares of three columns, for K problems at once: every active set is tried, there are seven.

    Returns the amplitudes (K, 3) and the squared error (K,).
    """
    gram = columns_K3n @ columns_K3n.transpose(0, 2, 1)
    moment = columns_K3n @ target_n
    total = float(target_n @ target_n)
    best = np.zeros((len(gram), 3))
    cost = np.full(len(gram), total)
    for active in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        part = gram[:, active][:, :, active]
        # A ridge far below anything that matters keeps coinciding columns solvable.
        part = part + 1e-12 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(active))
        solution = np.linalg.solve(part, moment[:, active, None])[:, :, 0]
        error = total - np.einsum("ka,ka->k", solution, moment[:, active])
        better = (solution >= 0).all(axis=1) & (error < cost)
        cost[better] = error[better]
        best[better] = 0.0
        best[np.ix_(better, active)] = solution[better]
    return best, cost


class Chinchilla(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta."""

    name = "chinchilla"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), equation 2"
    parameters = (
        Parameter(name="A", unit="nats * parameters^alpha", meaning="amplitude of what a finite size costs"),
        Parameter(name="B", unit="nats * tokens^beta", meaning="amplitude of what finite data cost"),
        Parameter(name="E", unit="nats a token", meaning="loss at infinite size and data"),
        Parameter(name="alpha", unit="1", meaning="exponent of size"),
        Parameter(name="beta", unit="1", meaning="exponent of data"),
    )

    counting = "n_params"

    def shape(self, params_KP: Array) -> PowerSum:
        a, b, e, alpha, beta = np.moveaxis(params_KP, -1, 0)
        return PowerSum(a, b, e, alpha, beta, np.ones_like(a))

    def shape_gradient(self, params_KP: Array) -> Array:
        return np.eye(5, 6)

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> ChinchillaProblem:
        return ChinchillaProblem(n_params_n, n_tokens_n, loss_n)
