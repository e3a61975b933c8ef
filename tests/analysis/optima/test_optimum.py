"""The compute optimum of a budget: an interval that takes endless draws, and a refusal where the law has no model to give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.decisions.costs import flops_rule
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.optima.optimum import budget_optimum
from analysis.results import Fit
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

COST = flops_rule(6.0, "6 N")


@pytest.fixture(scope="module")
def fitted() -> Fit:
    n_params, n_tokens = spread_design(40, np.random.default_rng(0))
    return fit(make_table(n_params, n_tokens, predict(BESIROGLU, n_params, n_tokens)), bootstrap=0)


@pytest.mark.parametrize(("alpha", "amplitude"), [(2.0, 1e-300), (0.3, 1e-300), (0.001, 1e300)])
def test_an_optimum_that_is_no_model_is_refused(fitted: Fit, alpha: float, amplitude: float) -> None:
    odd = replace(fitted, params=fitted.params | {"alpha": alpha, "A": amplitude})
    with pytest.raises(UserError, match=r"at 1e\+21 FLOPs the law chinchilla has no compute-optimal model"):
        budget_optimum(odd, 1e21, COST)


@pytest.mark.filterwarnings("error")
def test_a_draw_without_an_optimum_counts_as_infinite(fitted: Fit) -> None:
    law = get_law("chinchilla")
    draws_KP = np.tile(law.as_vector(fitted.params), (40, 1))
    names = law.parameter_names
    draws_KP[:4, names.index("A")], draws_KP[:4, names.index("alpha")] = 1e300, 1e-4
    optimum = budget_optimum(replace(fitted, draws_KP=draws_KP), 1e21, COST).optimum
    assert optimum.ci95 is not None
    assert optimum.ci95["n_params"].lo == pytest.approx(optimum.n_params)
    assert optimum.ci95["n_params"].hi == np.inf
