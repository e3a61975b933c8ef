"""The Chinchilla law: L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, equation 2)."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum
from analysis.laws.power_sum import BY_DATA, BY_SIZE, LOG_TD, LOG_TN, POWER, E, PowerSumProblem, coordinates


class Chinchilla(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta."""

    name = "chinchilla"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), equation 2"
    form = "L = E + A N^-alpha + B D^-beta"
    parameters = (
        Parameter(name="A", unit="nats * parameters^alpha", meaning="amplitude of what a finite size costs"),
        Parameter(name="B", unit="nats * tokens^beta", meaning="amplitude of what finite data cost"),
        Parameter(name="E", unit="nats a token", meaning="loss at infinite size and data"),
        Parameter(name="alpha", unit="1", meaning="exponent of size"),
        Parameter(name="beta", unit="1", meaning="exponent of data"),
    )
    counting = "n_params"

    def shape(self, params_KP: Array) -> PowerSum:
        # Views by index: root finders call this at one N and D, where moveaxis would cost as much as the prediction.
        a, b, e, alpha, beta = (params_KP[..., column] for column in range(5))
        return PowerSum(a, b, e, alpha, beta, np.ones(params_KP.shape[:-1]))

    def shape_gradient(self, params_KP: Array) -> Array:
        return np.eye(5, 6)

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> PowerSumProblem:
        return PowerSumProblem(
            coordinates(
                lambda shape: np.stack(shape[:5], axis=-1),
                ("E", (E,)),
                ("A", (LOG_TN,)),
                ("B", (LOG_TD,)),
                ("alpha", (BY_SIZE,)),
                ("beta", (BY_DATA,)),
                fixed={POWER: 1.0},
            ),
            n_params_n,
            n_tokens_n,
            loss_n,
        )
