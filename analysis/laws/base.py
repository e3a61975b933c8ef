"""The interface of a law, so that one law is one file: what it predicts, how the solver sees it, where its optimum lies.

Axes: K parameter vectors (starts, or bootstrap draws), P parameters, n runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a law."""

    name: str
    unit: str
    meaning: str


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
    """A parametric loss surface L(N, D), in nats a token."""

    name: str
    source: str
    """The paper and its equation."""
    parameters: tuple[Parameter, ...]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def as_vector(self, params: dict[str, float]) -> Array:
        """The named parameters as a vector (P,) in the law's order."""
        return np.array([params[name] for name in self.parameter_names], dtype=np.float64)

    @abstractmethod
    def predict(self, params_KP: Array, n_params: Array | float, n_tokens: Array | float) -> Array:
        """Loss at N and D, which broadcast against params' leading axes (params of shape (P,) give the shape of N and D)."""

    @abstractmethod
    def gradient(self, params_KP: Array, n_params: Array | float, n_tokens: Array | float) -> Array:
        """The loss's derivatives by the parameters, stacked on a last axis of P."""

    @abstractmethod
    def problem(self, n_params_n: Array, n_tokens_n: Array, loss_n: Array) -> Problem:
        """The law on these runs, for the solver."""

    @abstractmethod
    def exponents(self, params_KP: Array) -> tuple[Array, Array]:
        """(n_opt, d_opt): the powers of compute that N_opt and D_opt go with when compute is proportional to N D."""

    @abstractmethod
    def compute_optimum(
        self, params_KP: Array, flops: Array | float, slope: float = 6.0, exponent: float = 1.0
    ) -> tuple[Array, Array]:
        """(N_opt, D_opt) at a training budget, when a token costs slope * N^exponent FLOPs."""

    @abstractmethod
    def tokens_for_loss(self, params_KP: Array, n_params: Array | float, loss: Array | float) -> Array:
        """The D at which a model of N reaches `loss`; infinite where it never does."""

    @abstractmethod
    def smallest_size(self, params_KP: Array, loss: Array | float) -> Array:
        """The N below which no number of tokens reaches `loss`; infinite where no size does."""
