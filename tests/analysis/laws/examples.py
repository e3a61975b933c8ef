"""Laws as published or near, and designs that identify each: N, D and U of runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.laws import get_law, law_names
from analysis.laws.base import Array, Law
from tests.analysis.tables import BESIROGLU, spread_design

#: Muennighoff et al. 2023 print the logarithms of A, B and E.
MUENNIGHOFF = {
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "E": float(np.exp(0.6254804)),
    "alpha": 0.3526596,
    "R_D_star": 15.387756,
    "R_N_star": 5.309743,
}
#: Kaplan et al. 2020, table 2's fit of equation 1.5.
KAPLAN = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}

TRUTHS: dict[str, tuple[dict[str, float], ...]] = {
    "chinchilla": (BESIROGLU,),
    "overtraining": ({"E": 1.8, "a": 260.0, "b": 500.0, "eta": 0.14},),
    "data_constrained": (MUENNIGHOFF,),
    "skaling": (
        {"A": 482.0, "B": 2085.0, "E": 1.82, "alpha": 0.5, "beta": 0.52, "k": 0.7},
        {"A": 82.0, "B": 285.0, "E": 1.82, "alpha": 0.2, "beta": 0.22, "k": 1.6},
    ),
    "kaplan": (KAPLAN,),
}
CASES = [(name, truth) for name in law_names() for truth in TRUTHS[name]]
IDS = [f"{name}-{truth['k']:g}" if "k" in truth else name for name, truth in CASES]


class Runs(NamedTuple):
    n_params: Array
    n_tokens: Array
    unique_tokens: Array


def make_runs(number: int, rng: np.random.Generator) -> Runs:
    """A sound design; of U unique tokens the runs see from a half up to fifty times all."""
    n_params, n_tokens = spread_design(number, rng)
    return Runs(n_params, n_tokens, (n_tokens / np.exp(rng.uniform(np.log(0.5), np.log(50), number))).round())


def law_and_truth(name: str, truth: dict[str, float]) -> tuple[Law, Array]:
    law = get_law(name)
    return law, law.as_vector(truth)
