"""The Skaling law: L(N, D) = E + (A N^-alpha + B D^-beta)^k (arXiv 2608.07222).

One parameter more than Chinchilla's, which is k = 1. Where one term rules, the loss falls as N^-(alpha k) or D^-(beta k), and
k says how sharply one hands over to the other: below 1 later and more sharply, which is what strongly over-trained runs show.
Exponents and k are nearly degenerate as the paper writes them; the solver works in alpha k and beta k
(`analysis.laws.power_sum`). Whether k is worth its parameter is for the held-out error to say.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum
from analysis.laws.power_sum import BY_DATA, BY_SIZE, LOG_TD, LOG_TN, POWER, E, PowerSumProblem, coordinates

#: Of alpha k and beta k, so that A and B stay doubles at the smallest k. Published runs have 0.1 to 0.25.
EXPONENT_BOUNDS = (0.005, 2.0)


class Skaling(Law):
    """L(N, D) = E + (A N^-alpha + B D^-beta)^k."""

    name = "skaling"
    source = "arXiv 2608.07222"
    form = "L = E + (A N^-alpha + B D^-beta)^k"
    parameters = (
        Parameter(name="A", unit="nats^(1/k) * parameters^alpha", meaning="amplitude of what a finite size costs"),
        Parameter(name="B", unit="nats^(1/k) * tokens^beta", meaning="amplitude of what finite data cost"),
        Parameter(name="E", unit="nats a token", meaning="loss at infinite size and data"),
        Parameter(name="alpha", unit="1", meaning="exponent of size inside the power"),
        Parameter(name="beta", unit="1", meaning="exponent of data inside the power"),
        Parameter(name="k", unit="1", meaning="power of the sum; 1 is Chinchilla's law"),
    )
    counting = "n_params"
    max_condition = 3_000.0
    has_power = True

    def shape(self, params_KP: Array) -> PowerSum:
        return PowerSum(*np.moveaxis(params_KP, -1, 0))

    def shape_gradient(self, params_KP: Array) -> Array:
        return np.eye(6)

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> PowerSumProblem:
        return PowerSumProblem(
            coordinates(
                lambda shape: np.stack(shape, axis=-1),
                ("E", (E,)),
                ("A", (LOG_TN,)),
                ("B", (LOG_TD,)),
                ("alpha", (BY_SIZE,)),
                ("beta", (BY_DATA,)),
                ("k", (POWER,)),
                fixed={},
                bounds=dict.fromkeys((BY_SIZE, BY_DATA), EXPONENT_BOUNDS),
            ),
            n_params_n,
            n_tokens_n,
            loss_n,
        )
