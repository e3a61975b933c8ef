"""The interface of a law, so that one law is one file: what it predicts, how the solver sees it, where its optimum lies.

Where nothing repeats, every law is a member of one family, L = E + (A N^-alpha + B D^-beta)^k, and says which by `shape`.
Optima, inversions and limits follow from that in closed form, once, here. Laws that know repetition say by `repetition` what
D tokens out of U unique ones are worth, and the same formulas hold for D'.

Axes: K parameter vectors (starts, or bootstrap draws), P parameters, n runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.laws.repetition import effective_tokens, log_elasticity, tokens_for_effective
from analysis.results.basic import Array as Array
from llama.errors import UserError

#: Of the search for a compute optimum under repetition: half its width in ln N, and halvings down to a double's precision.
SEARCH_WIDTH, SEARCH_STEPS = 40.0, 70


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a law."""

    name: str
    unit: str
    meaning: str


class PowerSum(NamedTuple):
    """L = E + (A N^-alpha + B D^-beta)^k, each an array over the leading axes of the parameters it was made from."""

    A: Array
    B: Array
    E: Array
    alpha: Array
    beta: Array
    k: Array


class Repetition(NamedTuple):
    """What is fresh and what more of it is worth (`analysis.laws.repetition`). Infinite: never discounted."""

    unique_params: Array | float
    r_n_star: Array | float
    unique_tokens: Array | float
    r_d_star: Array | float


class Problem(ABC):
    """A law on given runs, in coordinates that suit a solver: centred logs, amplitudes as logs or over a scale.

    Losses inside are over `scale`, the geometric mean of the measured ones.
    """

    coordinates: tuple[str, ...]
    """The law's parameter that each coordinate stands for, in the solver's order."""
    lower_P: Array
    upper_P: Array
    scale: float

    @abstractmethod
    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """Starting points (K, P) for the scaled `loss_n`, best first."""

    @abstractmethod
    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        """The scaled loss (K, n) and its Jacobian (K, P, n)."""

    @abstractmethod
    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        """The sum over runs of q times the scaled loss's Hessian (K, P, P); the Jacobian at theta is at hand."""

    @abstractmethod
    def to_params(self, theta_KP: Array) -> Array:
        """The law's own parameters, in the order of `Law.parameters`."""


class Law(ABC):
    """A parametric loss surface L(N, D), in nats a token.

    `params_KP` may have any leading axes, against which N and D broadcast: parameters of shape (P,) give the shape of N and
    D. A law of `uses_unique_tokens` counts D out of `unique_tokens` (U) as fewer than D; the others ignore U, unless they
    are asked through `analysis.laws.repeating`.
    """

    name: str
    source: str
    """The paper and its equation."""
    form: str
    """The equation on a line, in the parameters' names."""
    parameters: tuple[Parameter, ...]
    counting: str
    """The column of the runs table that the paper counts N by."""
    uses_unique_tokens: bool = False
    has_power: bool = False
    """Whether k may differ from 1: a power a prediction that the others are spared."""
    spare_runs: int = 2
    """Runs that a fit needs beyond the number of parameters."""
    max_condition: float = 500.0
    """Past this condition number a design can't tell the parameters apart (`fitting.design` says how it was chosen)."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def as_vector(self, params: dict[str, float]) -> Array:
        """The named parameters as a vector (P,) in the law's order."""
        return np.array([params[name] for name in self.parameter_names], dtype=np.float64)

    @abstractmethod
    def shape(self, params_KP: Array) -> PowerSum:
        """The law where nothing repeats."""

    @abstractmethod
    def shape_gradient(self, params_KP: Array) -> Array:
        """The derivatives of the shape's six fields by the parameters: (..., P, 6)."""

    @abstractmethod
    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> Problem:
        """The law on these runs, for the solver."""

    def repetition(self, params_KP: Array, unique_tokens: Array | float) -> Repetition:
        """What `unique_tokens` discount, for a law that uses them."""
        raise NotImplementedError(f"{self.name} does not use unique tokens")

    def check(self, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None = None) -> None:
        """Refuse runs that can't identify what is this law's own, beyond `analysis.fitting.design`.

        Raises:
            UserError: says what must vary.
        """
        if self.uses_unique_tokens and (unique_tokens_n is None or not (unique_tokens_n > 0).all()):
            raise UserError(
                f"the law {self.name} needs the unique tokens that each run drew its tokens from, and "
                f"{'no run has them' if unique_tokens_n is None else 'some runs have none'}: add a column unique_tokens"
            )

    def predict(
        self,
        params_KP: Array,
        n_params: Array | float,
        n_tokens: Array | float,
        unique_tokens: Array | float = np.inf,
    ) -> Array:
        """Loss at N and D."""
        if self._repeats(unique_tokens):
            known = self.repetition(params_KP, unique_tokens)
            n_params = effective_tokens(n_params, known.unique_params, known.r_n_star)
            n_tokens = effective_tokens(n_tokens, known.unique_tokens, known.r_d_star)
        a, b, e, alpha, beta, k = self.shape(params_KP)
        inner = a * np.power(n_params, -alpha) + b * np.power(n_tokens, -beta)
        return np.asarray(e + (np.power(inner, k) if self.has_power else inner))

    def gradient(
        self,
        params_KP: Array,
        n_params: Array | float,
        n_tokens: Array | float,
        unique_tokens: Array | float = np.inf,
    ) -> Array:
        """The loss's derivatives by the parameters, stacked on a last axis of P."""
        if self._repeats(unique_tokens):
            known = self.repetition(params_KP, unique_tokens)
            n_params = effective_tokens(n_params, known.unique_params, known.r_n_star)
            n_tokens = effective_tokens(n_tokens, known.unique_tokens, known.r_d_star)
        by_shape = power_sum_gradient(self.shape(params_KP), n_params, n_tokens)
        return np.asarray((self.shape_gradient(params_KP) @ by_shape[..., None])[..., 0])

    def limit(self, params_KP: Array) -> Array:
        """The loss at infinite N and D."""
        return self.shape(params_KP).E

    def exponents(self, params_KP: Array) -> tuple[Array, Array]:
        """(n_opt, d_opt): the powers of compute that N_opt and D_opt go with when compute is proportional to N D."""
        shape = self.shape(params_KP)
        total = shape.alpha + shape.beta
        return shape.beta / total, shape.alpha / total

    def compute_optimum(
        self,
        params_KP: Array,
        flops: Array | float,
        slope: Array | float = 6.0,
        exponent: Array | float = 1.0,
        unique_tokens: Array | float = np.inf,
    ) -> tuple[Array, Array]:
        """(N_opt, D_opt) at a training budget, when a token costs slope * N^p FLOPs (Hoffmann et al. 2022, equation 4).

        N^(alpha + p beta) = alpha A / (p beta B) * (C/slope)^beta; k moves the loss there, not the place.
        With slope 6 and p 1: N_opt = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)).
        """
        shape = self.shape(params_KP)
        log_budget = np.log(np.asarray(flops) / slope)
        log_n = np.log(shape.alpha * shape.A / (exponent * shape.beta * shape.B)) + shape.beta * log_budget
        log_n = log_n / (shape.alpha + exponent * shape.beta)
        if self._repeats(unique_tokens):
            log_n = self._repeated_optimum(params_KP, shape, log_n, log_budget, exponent, unique_tokens)
        return np.exp(log_n), np.exp(log_budget - exponent * log_n)

    def _repeated_optimum(
        self,
        params_KP: Array,
        shape: PowerSum,
        start: Array,
        log_budget: Array,
        exponent: Array | float,
        unique_tokens: Array | float,
    ) -> Array:
        """ln N_opt under repetition: where what a larger size gains equals what its fewer tokens lose.

        Along a budget the gain falls with N and the loss rises, so that their ratio crosses 1 once: bisection, batched.
        """
        known = self.repetition(params_KP, unique_tokens)
        start = np.broadcast_to(
            start, np.broadcast_shapes(start.shape, np.shape(unique_tokens), np.shape(known.unique_params))
        )
        low, high = start - SEARCH_WIDTH, start + SEARCH_WIDTH
        for _ in range(SEARCH_STEPS):
            log_n = (low + high) / 2
            n, d = np.exp(log_n), np.exp(log_budget - exponent * log_n)
            size_gains = (
                np.log(shape.alpha * shape.A)
                - shape.alpha * np.log(effective_tokens(n, known.unique_params, known.r_n_star))
                + log_elasticity(n, known.unique_params, known.r_n_star)
            )
            data_lose = (
                np.log(exponent * shape.beta * shape.B)
                - shape.beta * np.log(effective_tokens(d, known.unique_tokens, known.r_d_star))
                + log_elasticity(d, known.unique_tokens, known.r_d_star)
            )
            too_small = size_gains > data_lose
            low, high = np.where(too_small, log_n, low), np.where(too_small, high, log_n)
        return np.asarray((low + high) / 2)

    def tokens_for_loss(
        self,
        params_KP: Array,
        n_params: Array | float,
        loss: Array | float,
        unique_tokens: Array | float = np.inf,
    ) -> Array:
        """The D at which a model of N reaches `loss`; infinite where it never does."""
        shape = self.shape(params_KP)
        known = self.repetition(params_KP, unique_tokens) if self._repeats(unique_tokens) else None
        if known is not None:
            n_params = effective_tokens(n_params, known.unique_params, known.r_n_star)
        room = _inner(shape, loss, self.has_power) - shape.A * np.power(n_params, -shape.alpha)
        n_tokens = _solve_term(shape.B, shape.beta, room)
        if known is not None:
            n_tokens = tokens_for_effective(n_tokens, known.unique_tokens, known.r_d_star)
        return n_tokens

    def smallest_size(self, params_KP: Array, loss: Array | float, unique_tokens: Array | float = np.inf) -> Array:
        """The N below which no number of tokens reaches `loss`; infinite where no size does."""
        shape = self.shape(params_KP)
        room = _inner(shape, loss, self.has_power)
        if not self._repeats(unique_tokens):
            return _solve_term(shape.A, shape.alpha, room)
        known = self.repetition(params_KP, unique_tokens)
        most = np.multiply(known.unique_tokens, 1 + known.r_d_star)
        n_params = _solve_term(shape.A, shape.alpha, room - shape.B * np.power(most, -shape.beta))
        return tokens_for_effective(n_params, known.unique_params, known.r_n_star)

    def _repeats(self, unique_tokens: Array | float) -> bool:
        return self.uses_unique_tokens and not (np.isscalar(unique_tokens) and unique_tokens == np.inf)


def power_sum_gradient(shape: PowerSum, n_params: Array | float, n_tokens: Array | float) -> Array:
    """The derivatives of E + (A N^-alpha + B D^-beta)^k by the shape's fields, in their order, on a last axis of 6."""
    a, b, _, alpha, beta, k = shape
    by_a, by_b = np.power(n_params, -alpha), np.power(n_tokens, -beta)
    inner = a * by_a + b * by_b
    power = np.power(inner, k)
    outer = k * power / inner
    parts = [
        outer * by_a,
        outer * by_b,
        np.ones_like(inner),
        -outer * a * by_a * np.log(n_params),
        -outer * b * by_b * np.log(n_tokens),
        power * np.log(inner),
    ]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def _inner(shape: PowerSum, loss: Array | float, has_power: bool) -> Array:
    """A N^-alpha + B D^-beta where the loss is `loss`; at most 0 where it never is."""
    room = np.asarray(loss - shape.E)
    return np.asarray(np.power(np.maximum(room, 0.0), 1 / shape.k)) if has_power else room


def _solve_term(amplitude: Array, exponent: Array, room: Array) -> Array:
    """The x of amplitude * x^-exponent = room; infinite where there is no room."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(room > 0, np.exp(np.log(amplitude / np.where(room > 0, room, 1.0)) / exponent), np.inf)
