"""The solver's view of the family L = E + (A N^-alpha + B D^-beta)^k: one problem for every law in it.

Outer coordinates make it tame. With TN = (A N^-alpha)^k, what a finite size costs when data are endless, and TD alike,
L = E + (TN^(1/k) + TD^(1/k))^k: a norm of order 1/k. The powers alpha k and beta k of TN and TD are what data determine, and k
only says how sharply one term hands over to the other, so that it hardly correlates with them. In theta they are logs at
the centre of the design, where amplitudes hardly correlate with exponents; E stays linear, so that E = 0 is a point and not a
flat infinity.

Axes: K parameter vectors, P free coordinates, F the family's six, n runs, G cells of the grid of starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array, PowerSum, Problem

#: Exponents alpha k and beta k stay in here. Fits that end on an edge say so: designs that can't identify the law send alpha
#: to 27.
EXPONENT_BOUNDS = (0.005, 5.0)
#: Below, the larger of TN and TD all but stands alone; past 5 the sum is all but their geometric mean times 2^k, and only the
#: product of N^alpha and D^beta matters. Sardana's runs have 0.15 to 0.17, Gadre's 0.25 to 0.39.
POWER_BOUNDS = (0.08, 5.0)
#: Exponents of the grid of starts.
START_EXPONENTS = np.array([0.05, 0.12, 0.2, 0.3, 0.4, 0.52, 0.68, 0.88, 1.15, 1.5, 2.0])
#: Where k is free: its values, and those of E over the least loss.
START_POWERS = np.array([0.2, 0.5, 1.0, 2.0])
START_LIMITS = np.array([0.0, 0.3, 0.5, 0.65, 0.8, 0.9, 0.96])
MAX_STARTS, MAX_STARTS_EACH_POWER = 6, 3

#: The family's six coordinates; theta maps onto them linearly.
E, LOG_TN, LOG_TD, BY_SIZE, BY_DATA, POWER = range(6)


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Which of the six a law leaves free, which it ties and which it fixes: six_F = theta_P @ tie_PF + fixed_F.

    `from_shape` gives the law's parameters. ln TN and ln TD must be coordinates of their own.
    """

    names: tuple[str, ...]
    tie_PF: Array
    fixed_F: Array
    lower_P: Array
    upper_P: Array
    from_shape: Callable[[PowerSum], Array]

    @property
    def has_power(self) -> bool:
        return bool(self.tie_PF[:, POWER].any() or self.fixed_F[POWER] != 1)


def coordinates(
    from_shape: Callable[[PowerSum], Array],
    *free: tuple[str, tuple[int, ...]],
    fixed: dict[int, float],
    bounds: dict[int, tuple[float, float]] | None = None,
) -> Coordinates:
    """`Coordinates` of free ones by name, each with those of the six it sets; bounds other than the family's by place."""
    known = {
        E: (0.0, np.inf),
        LOG_TN: (-40.0, 10.0),
        LOG_TD: (-40.0, 10.0),
        BY_SIZE: EXPONENT_BOUNDS,
        BY_DATA: EXPONENT_BOUNDS,
        POWER: POWER_BOUNDS,
    } | (bounds or {})
    tie, fixed_F = np.zeros((len(free), 6)), np.zeros(6)
    for row, (_, places) in enumerate(free):
        tie[row, list(places)] = 1.0
    for place, value in fixed.items():
        fixed_F[place] = value
    return Coordinates(
        names=tuple(name for name, _ in free),
        tie_PF=tie,
        fixed_F=fixed_F,
        lower_P=np.array([max(known[place][0] for place in places) for _, places in free]),
        upper_P=np.array([min(known[place][1] for place in places) for _, places in free]),
        from_shape=from_shape,
    )


class PowerSumProblem(Problem):
    """L/s = e + exp(k logaddexp((a - alpha n)/k, (b - beta d)/k)), n and d centred logs; without k two plain exponentials."""

    def __init__(self, chosen: Coordinates, n_params_n: Array, n_tokens_n: Array, loss_n: Array) -> None:
        log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
        self.center_n, self.center_d = float(log_n.mean()), float(log_d.mean())
        self.n_n, self.d_n = log_n - self.center_n, log_d - self.center_d
        self.scale = float(np.exp(np.log(loss_n).mean()))
        self.chosen, self.coordinates = chosen, chosen.names
        self.lower_P, self.upper_P = chosen.lower_P, chosen.upper_P
        self.has_power = chosen.has_power
        # Laws that free all but k, in the six's order, need no map.
        self.is_plain = np.array_equal(chosen.tie_PF, np.eye(5, 6)) and not self.has_power
        self.at_tn, self.at_td = (int(np.argmax(chosen.tie_PF[:, place])) for place in (LOG_TN, LOG_TD))

    def six(self, theta_KP: Array) -> Array:
        return np.asarray(theta_KP @ self.chosen.tie_PF + self.chosen.fixed_F)

    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        if self.has_power:
            loss, jacobian = self._evaluate_power(self.six(theta_KP))
        else:
            loss, jacobian = self._evaluate_sum(theta_KP if self.is_plain else self.six(theta_KP))
        return loss, jacobian if self.is_plain else self.chosen.tie_PF[:, : jacobian.shape[1]] @ jacobian

    def _evaluate_sum(self, six_KF: Array) -> tuple[Array, Array]:
        six_KF1 = six_KF[:, :, None]
        jacobian = np.empty((len(six_KF), 5, len(self.n_n)))
        jacobian[:, E] = 1.0
        term_n = np.exp(six_KF1[:, LOG_TN] - six_KF1[:, BY_SIZE] * self.n_n, out=jacobian[:, LOG_TN])
        term_d = np.exp(six_KF1[:, LOG_TD] - six_KF1[:, BY_DATA] * self.d_n, out=jacobian[:, LOG_TD])
        np.multiply(term_n, -self.n_n, out=jacobian[:, BY_SIZE])
        np.multiply(term_d, -self.d_n, out=jacobian[:, BY_DATA])
        return np.asarray(six_KF1[:, E] + term_n + term_d), jacobian

    def _evaluate_power(self, six_KF: Array) -> tuple[Array, Array]:
        inner, _, log_gradient = self._log_inner(six_KF)
        jacobian = np.empty((len(six_KF), 6, len(self.n_n)))
        jacobian[:, E] = 1.0
        np.multiply(inner[:, None], log_gradient, out=jacobian[:, 1:])
        return six_KF[:, E, None] + inner, jacobian

    def _log_inner(self, six_KF: Array) -> tuple[Array, Array, Array]:
        """I = (TN^(1/k) + TD^(1/k))^k, z = ln(TN/TD)/k, and the gradient of ln I by the last five of the six (K, 5, n).

        With w = 1/(1 + exp -z), the share of N's term: d ln I = w d ln TN + (1 - w) d ln TD + H dk, where H is the entropy
        -w ln w - (1-w) ln(1-w) of the shares.
        """
        six_KF1 = six_KF[:, :, None]
        log_tn = six_KF1[:, LOG_TN] - six_KF1[:, BY_SIZE] * self.n_n
        log_td = six_KF1[:, LOG_TD] - six_KF1[:, BY_DATA] * self.d_n
        k = six_KF1[:, POWER]
        z = (log_tn - log_td) / k
        smaller = np.exp(-np.abs(z))
        both = np.log1p(smaller)
        inner = np.exp(np.maximum(log_tn, log_td) + k * both)
        share = np.where(z > 0, 1.0, smaller) / (1 + smaller)
        other = np.where(z > 0, smaller, 1.0) / (1 + smaller)
        entropy = both + np.abs(z) * np.minimum(share, other)
        return inner, z, np.stack([share, other, -self.n_n * share, -self.d_n * other, entropy], axis=1)

    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        if self.has_power:
            return self._curvature_power(theta_KP, q_Kn)
        # Each term is exp of a linear form (1, -x), so its Hessian is the term times the form's outer product.
        hessian = np.zeros((len(q_Kn), 6, 6))
        for amplitude, exponent, row, x_n in (
            (LOG_TN, BY_SIZE, self.at_tn, self.n_n),
            (LOG_TD, BY_DATA, self.at_td, self.d_n),
        ):
            weighted = q_Kn * jacobian_KPn[:, row]
            first = weighted @ x_n
            hessian[:, amplitude, amplitude] = weighted.sum(axis=1)
            hessian[:, amplitude, exponent] = hessian[:, exponent, amplitude] = -first
            hessian[:, exponent, exponent] = weighted @ (x_n * x_n)
        if self.is_plain:
            return hessian[:, :5, :5]
        return np.asarray(self.chosen.tie_PF @ hessian @ self.chosen.tie_PF.T)

    def _curvature_power(self, theta_KP: Array, q_Kn: Array) -> Array:
        """The Hessian of I is I times (the outer product of ln I's gradient + w (1 - w)/k that of c), where
        c = (1, -1, -n, d, -z): ln I is the logarithm of a sum of exponentials, and z is all that turns its gradient."""
        six_KF = self.six(theta_KP)
        inner, z, slopes = self._log_inner(six_KF)
        weighted = q_Kn * inner
        turn = np.stack(np.broadcast_arrays(1.0, -1.0, -self.n_n, self.d_n, -z), axis=1)
        spread = weighted * slopes[:, 0] * slopes[:, 1] / six_KF[:, POWER, None]
        hessian = np.zeros((len(q_Kn), 6, 6))
        hessian[:, 1:, 1:] = (slopes * weighted[:, None]) @ slopes.transpose(0, 2, 1)
        hessian[:, 1:, 1:] += (turn * spread[:, None]) @ turn.transpose(0, 2, 1)
        return np.asarray(self.chosen.tie_PF @ hessian @ self.chosen.tie_PF.T)

    def to_params(self, theta_KP: Array) -> Array:
        e, a, b, by_size, by_data, k = self.six(theta_KP).T
        log_scale = np.log(self.scale)
        return self.chosen.from_shape(
            PowerSum(
                A=np.exp((log_scale + a + by_size * self.center_n) / k),
                B=np.exp((log_scale + b + by_data * self.center_d) / k),
                E=self.scale * e,
                alpha=by_size / k,
                beta=by_data / k,
                k=k,
            )
        )

    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """Variable projection: on a grid of exponents (of k and E where k is free) the best amplitudes >= 0 by least squares
        of relative residuals; the grid's local minima, best first, and some of the better half."""
        grid = self._grid()
        e, a, b, cost = self._projected(grid, loss_n, weight_n)
        six_GF = np.stack([e, a, b, *(grid[place].ravel() for place in (BY_SIZE, BY_DATA, POWER))], axis=1)
        slices = range(grid[POWER].shape[2])
        most = MAX_STARTS if len(slices) == 1 else MAX_STARTS_EACH_POWER
        index = np.arange(cost.size).reshape(cost.shape)
        chosen = np.concatenate([index[:, :, i].ravel()[_promising(cost[:, :, i], most)] for i in slices])
        chosen = chosen[np.argsort(cost.ravel()[chosen], kind="stable")] if len(slices) > 1 else chosen
        # Rows of the tie have ones where a coordinate sets several of the six, which are equal there.
        first = np.argmax(self.chosen.tie_PF, axis=1)
        return np.asarray(six_GF[chosen][:, first])

    def _grid(self) -> dict[int, Array]:
        """Exponents, k and E over the least loss on axes (alpha, beta, k, E); ties hold in every cell."""
        tie = self.chosen.tie_PF
        size, data, power, limit = START_EXPONENTS, START_EXPONENTS, np.ones(1), np.zeros(1)
        if self._tied(BY_SIZE, BY_DATA):
            size = np.ones(1)
        if tie[:, POWER].any():
            power = np.ones(1) if self._tied(BY_DATA, POWER) else START_POWERS
            limit = START_LIMITS if tie[:, E].any() else np.zeros(1)
        axes = np.meshgrid(size, data, power, limit, indexing="ij")
        grid = dict(zip((BY_SIZE, BY_DATA, POWER, E), axes, strict=True))
        if self._tied(BY_SIZE, BY_DATA):
            grid[BY_SIZE] = grid[BY_DATA]
        if self._tied(BY_DATA, POWER):
            grid[POWER] = grid[BY_DATA]
        return grid

    def _tied(self, first: int, second: int) -> bool:
        tie = self.chosen.tie_PF
        return bool((tie[:, first] * tie[:, second]).any())

    def _projected(
        self, grid: dict[int, Array], loss_n: Array, weight_n: Array
    ) -> tuple[Array, Array, Array, NDArray[np.float64]]:
        """E, ln TN and ln TD of each cell (G,) and the squared error in the grid's shape.

        With k = 1 the loss is linear in E and both amplitudes. Otherwise (L - E)^(1/k) is linear in two, at each E of the
        grid, with residuals weighted so that they are those of L to first order.
        """
        shape = grid[POWER].shape
        by_size, by_data, k, limit = (grid[place].ravel()[:, None] for place in (BY_SIZE, BY_DATA, POWER, E))
        relative = np.sqrt(weight_n) / loss_n
        floor = np.exp(-20.0)
        if not self.has_power:
            basis_n, basis_d = np.exp(-by_size * self.n_n), np.exp(-by_data * self.d_n)
            columns = np.stack([np.ones_like(basis_n), basis_n, basis_d], axis=1)
            columns *= relative
            amplitudes, cost = nonnegative_amplitudes(columns, np.sqrt(weight_n))
            return amplitudes[:, 0], *np.log(np.maximum(amplitudes[:, 1:], floor)).T, cost.reshape(shape)
        e = limit * loss_n.min()
        # Over the largest: powers of 1/k would overflow.
        most = (loss_n - e).max(axis=1, keepdims=True)
        room = (loss_n - e) / most
        powers = np.stack([-by_size / k * self.n_n, -by_data / k * self.d_n], axis=1)
        highest = powers.max(axis=2, keepdims=True)
        scaled = k * np.power(room, 1 - 1 / k) * relative * most
        # Rows of next to no room weigh next to nothing in the power of it, and may not overflow in the weight.
        columns = np.exp(powers - highest) * np.minimum(scaled, 1e100)[:, None]
        amplitudes, cost = nonnegative_amplitudes(columns, np.power(room, 1 / k) * np.minimum(scaled, 1e100))
        logs = np.log(np.maximum(amplitudes, floor)) - highest[:, :, 0]
        return e[:, 0], *(np.log(most) + k * logs).T, cost.reshape(shape)


def _promising(cost: Array, most: int) -> NDArray[np.intp]:
    """Flat indices of the grid's local minima, best first, and of some of the best half, so that "all starts agree" means
    something."""
    cost = np.squeeze(cost)
    padded = np.pad(cost, 1, constant_values=np.inf)
    offsets = [offset for offset in product((-1, 0, 1), repeat=cost.ndim) if any(offset)]
    neighbours = [
        padded[tuple(slice(1 + i, 1 + i + size) for i, size in zip(offset, cost.shape, strict=True))]
        for offset in offsets
    ]
    flat = cost.ravel()
    lowest = np.flatnonzero((cost <= np.min(neighbours, axis=0)).ravel())
    order = lowest[np.argsort(flat[lowest])][: most // 2]
    others = np.argsort(flat)[len(flat) // 20 : len(flat) // 2 : max(1, len(flat) // 8)]
    return np.concatenate([order, np.setdiff1d(others, order)])[:most]


def nonnegative_amplitudes(columns_KCn: Array, target_Kn: Array) -> tuple[Array, Array]:
    """Non-negative least squares of two or three columns, for K problems at once: every active set is tried.

    The target may be one (n,) for all. Returns the amplitudes (K, C) and the squared error (K,).
    """
    count = columns_KCn.shape[1]
    gram = columns_KCn @ columns_KCn.transpose(0, 2, 1)
    moment = (columns_KCn @ target_Kn[..., None])[..., 0]
    total = np.broadcast_to((target_Kn**2).sum(axis=-1), len(gram))
    best = np.zeros((len(gram), count))
    cost = total.copy()
    for active in (list(chosen) for size in range(1, count + 1) for chosen in combinations(range(count), size)):
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
