"""Kaplan's law: L(N, D) = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D (Kaplan et al. 2020, equation 1.5).

It has no floor: the loss goes to 0 with N and D. In the family it is E = 0, A = N_c^(alpha_N/alpha_D), alpha = alpha_N/alpha_D,
B = D_c, beta = 1 and k = alpha_D. N leaves the embeddings out.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum
from analysis.laws.power_sum import BY_DATA, BY_SIZE, LOG_TD, LOG_TN, POWER, PowerSumProblem, coordinates

#: So that A = N_c^(alpha_N/alpha_D) stays a double. Without a floor exponents are small: Kaplan et al. have 0.076 and 0.095.
EXPONENT_BOUNDS = (0.03, 1.0)


class Kaplan(Law):
    """L(N, D) = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D."""

    name = "kaplan"
    source = "Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5"
    form = "L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D"
    parameters = (
        Parameter(name="N_c", unit="parameters", meaning="size at which endless data would give a loss of 1"),
        Parameter(name="D_c", unit="tokens", meaning="data on which an endless size would have a loss of 1"),
        Parameter(name="alpha_N", unit="1", meaning="exponent of size where data are endless"),
        Parameter(name="alpha_D", unit="1", meaning="exponent of data where the size is endless"),
    )
    counting = "n_params_non_embedding"
    max_condition = 75.0
    has_power = True

    def shape(self, params_KP: Array) -> PowerSum:
        n_c, d_c, alpha_n, alpha_d = np.moveaxis(params_KP, -1, 0)
        alpha = alpha_n / alpha_d
        return PowerSum(np.power(n_c, alpha), d_c, np.zeros_like(d_c), alpha, np.ones_like(d_c), alpha_d)

    def shape_gradient(self, params_KP: Array) -> Array:
        n_c, _, alpha_n, alpha_d = np.moveaxis(params_KP, -1, 0)
        alpha = alpha_n / alpha_d
        amplitude = np.power(n_c, alpha)
        gradient = np.zeros((*np.shape(n_c), 4, 6))
        gradient[..., 0, 0] = alpha * amplitude / n_c
        gradient[..., 1, 1] = 1.0
        gradient[..., 2, 0] = amplitude * np.log(n_c) / alpha_d
        gradient[..., 2, 3] = 1 / alpha_d
        gradient[..., 3, 0] = -amplitude * np.log(n_c) * alpha / alpha_d
        gradient[..., 3, 3] = -alpha / alpha_d
        gradient[..., 3, 5] = 1.0
        return gradient

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> PowerSumProblem:
        return PowerSumProblem(
            coordinates(
                _from_shape,
                ("N_c", (LOG_TN,)),
                ("D_c", (LOG_TD,)),
                ("alpha_N", (BY_SIZE,)),
                ("alpha_D", (BY_DATA, POWER)),
                fixed={},
                bounds=dict.fromkeys((BY_SIZE, BY_DATA, POWER), EXPONENT_BOUNDS),
            ),
            n_params_n,
            n_tokens_n,
            loss_n,
        )


def _from_shape(shape: PowerSum) -> Array:
    return np.stack([np.power(shape.A, 1 / shape.alpha), shape.B, shape.alpha * shape.k, shape.k], axis=-1)
