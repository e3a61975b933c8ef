"""Any law on data that run out: D tokens out of U unique ones count as the D' of `analysis.laws.repetition`."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, PowerSum, Problem, Repetition
from analysis.laws.repetition import R_D_STAR


def with_repetition(law: Law) -> Law:
    """`law` with unique tokens: its own account of repetition where it has one, else Muennighoff's with their R_D*."""
    return law if law.uses_unique_tokens else Repeating(law)


class Repeating(Law):
    """A law of L(N, D), at L(N, D'). A size is not discounted: how many parameters U tokens can use was not fitted for it."""

    uses_unique_tokens = True

    def __init__(self, law: Law) -> None:
        self.law = law
        self.name, self.parameters, self.counting = law.name, law.parameters, law.counting
        self.has_power, self.spare_runs, self.max_condition = law.has_power, law.spare_runs, law.max_condition
        self.source = f"{law.source}; repetition by Muennighoff et al. 2023 (arXiv 2305.16264), R_D* {R_D_STAR:g}"
        self.form = (
            f"{law.form} at D' for D, where D' = U + U R (1 - exp((1 - D/U)/R)) past U unique tokens, R = {R_D_STAR:g}"
        )

    def shape(self, params_KP: Array) -> PowerSum:
        return self.law.shape(params_KP)

    def shape_gradient(self, params_KP: Array) -> Array:
        return self.law.shape_gradient(params_KP)

    def repetition(self, params_KP: Array, unique_tokens: Array | float) -> Repetition:
        return Repetition(np.inf, 1.0, unique_tokens, R_D_STAR)

    def problem(
        self, n_params_n: Array, n_tokens_n: Array, loss_n: Array, unique_tokens_n: Array | None = None
    ) -> Problem:
        return self.law.problem(n_params_n, n_tokens_n, loss_n, unique_tokens_n)
