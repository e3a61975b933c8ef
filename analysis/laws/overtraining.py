"""The law of over-training: L(C, M) = E + (a M^eta + b M^-eta) C^-eta (Gadre et al. 2024, equation 4).

M = D/N is the token multiplier and C = 6 N D. Put in, it is Chinchilla's law with alpha = beta = 2 eta, A = a 6^-eta and
B = b 6^-eta: the ratio D/N of the compute optimum is the same at every budget, and over-training by M only shifts the line of
loss against compute. Four parameters, so that five runs suffice.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Parameter, PowerSum
from analysis.laws.power_sum import BY_DATA, BY_SIZE, LOG_TD, LOG_TN, POWER, E, PowerSumProblem, coordinates
from llama.errors import UserError

FLOPS_PER_PARAM_TOKEN = 6.0
#: What tells a from b is how loss at one compute changes with M: runs must differ in it by this factor. Gadre et al. fit
#: runs at 20 and one at 320.
MIN_MULTIPLIER_SPREAD = 4.0


class Overtraining(Law):
    """L = E + (a M^eta + b M^-eta) C^-eta with M = D/N, C = 6 N D."""

    name = "overtraining"
    source = "Gadre et al. 2024 (arXiv 2403.08540), equation 4"
    form = "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6 N D"
    parameters = (
        Parameter(name="E", unit="nats a token", meaning="loss at infinite compute"),
        Parameter(name="a", unit="nats * FLOPs^eta", meaning="amplitude of what too many tokens a parameter cost"),
        Parameter(name="b", unit="nats * FLOPs^eta", meaning="amplitude of what too few tokens a parameter cost"),
        Parameter(name="eta", unit="1", meaning="exponent of compute at one ratio D/N"),
    )
    counting = "n_params"
    max_condition = 80.0
    spare_runs = 1

    def shape(self, params_KP: Array) -> PowerSum:
        e, a, b, eta = np.moveaxis(params_KP, -1, 0)
        per_flop = np.power(FLOPS_PER_PARAM_TOKEN, -eta)
        return PowerSum(a * per_flop, b * per_flop, e, 2 * eta, 2 * eta, np.ones_like(a))

    def shape_gradient(self, params_KP: Array) -> Array:
        _, a, b, eta = np.moveaxis(params_KP, -1, 0)
        per_flop = np.power(FLOPS_PER_PARAM_TOKEN, -eta)
        gradient = np.zeros((*np.shape(eta), 4, 6))
        gradient[..., 0, 2] = 1.0
        gradient[..., 1, 0] = gradient[..., 2, 1] = per_flop
        gradient[..., 3, 0] = -a * per_flop * np.log(FLOPS_PER_PARAM_TOKEN)
        gradient[..., 3, 1] = -b * per_flop * np.log(FLOPS_PER_PARAM_TOKEN)
        gradient[..., 3, 3] = gradient[..., 3, 4] = 2.0
        return gradient

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> PowerSumProblem:
        return PowerSumProblem(
            coordinates(
                _from_shape,
                ("E", (E,)),
                ("a", (LOG_TN,)),
                ("b", (LOG_TD,)),
                ("eta", (BY_SIZE, BY_DATA)),
                fixed={POWER: 1.0},
            ),
            n_params_n,
            n_tokens_n,
            loss_n,
        )

    def check(self, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None = None) -> None:
        ratio = n_tokens_n / n_params_n
        if ratio.max() < MIN_MULTIPLIER_SPREAD * ratio.min():
            raise UserError(
                f"the runs have {ratio.min():.3g} to {ratio.max():.3g} tokens a parameter, and the law {self.name} is about "
                f"what that ratio does: it must differ by a factor of {MIN_MULTIPLIER_SPREAD:g} or more. Train the smallest "
                f"size on {MIN_MULTIPLIER_SPREAD:g} times as many tokens, or more."
            )


def _from_shape(shape: PowerSum) -> Array:
    eta = shape.alpha / 2
    flops = np.power(FLOPS_PER_PARAM_TOKEN, eta)
    return np.stack([shape.E, shape.A * flops, shape.B * flops, eta], axis=-1)
