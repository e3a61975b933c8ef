"""FLOPs a token as a function of N: what the table counts, and where it goes beyond the largest size."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decisions.choose import Setting, training_pick
from analysis.decisions.costs import Prices, flops_costs, training_flops
from analysis.decisions.recommend import recommend
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.optima.approaches import approaches
from analysis.optima.optimum import budget_optimum, compute_ridge
from analysis.results import Array, Fit, Question, TokenCost
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import make_table

SIZES = np.geomspace(1e7, 1e10, 7)
LAW = get_law("chinchilla")
SARDANA = LAW.as_vector({"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283})


def counted(flops_per_token: Array | None, **counts: Array) -> RunTable:
    """A run of each size on 20 tokens a parameter."""
    table = make_table(SIZES, 20 * SIZES, 2 + SIZES**-0.1)
    flops = np.nan if flops_per_token is None else flops_per_token * 20 * SIZES
    return replace(table, frame=table.frame.assign(flops=flops, **counts))


def embeddings(n_params: Array | float, share: float, falls: float) -> Array:
    """Over the rest, at 1e7 parameters `share` of it."""
    return np.asarray(share * (n_params / 1e7) ** -falls)


class TestFlops:
    @settings(max_examples=20, deadline=None)
    @given(share=st.floats(0.01, 2.0), falls=st.floats(1 / 3, 2 / 3), side=st.sampled_from((1, -1)))
    def test_ten_times_the_largest_size_is_within_three_per_cent(
        self, share: float, falls: float, side: Literal[1, -1]
    ) -> None:
        cost = training_flops(counted(6 * SIZES * (1 + embeddings(SIZES, share, falls)) ** side))
        for n in (1e7, 1e9, 1e11):
            assert float(cost(n)) == pytest.approx(6 * n * (1 + embeddings(n, share, falls)) ** side, rel=0.03)

    def test_a_ladder_in_steps_does_not_bend_what_lies_beyond(self) -> None:
        steps = np.where(np.arange(len(SIZES)) % 2, 1.02, 0.98)
        cost = training_flops(counted(6 * SIZES * (1 + embeddings(SIZES, 0.4, 1 / 3)) * steps))
        assert float(cost(1e11)) == pytest.approx(6e11 * (1 + embeddings(1e11, 0.4, 1 / 3)), rel=0.04)
        assert cost.max_rel_error < 0.04

    def test_the_compute_optimum_is_that_of_the_bent_line(self) -> None:
        cost = training_flops(counted(6 * SIZES * (1 + embeddings(SIZES, 1.0, 1 / 3))))
        question = Question(
            kind="compute", value=1e19, unit="FLOPs", demand_tokens=None, prompt_share=None, unique_tokens=None
        )
        best = training_pick(Setting(question=question, costs=flops_costs(cost), train_flops=cost), LAW, SARDANA)
        grid = np.geomspace(float(best.n_params) / 3, float(best.n_params) * 3, 20_001)
        loss = LAW.predict(SARDANA, grid, 1e19 / cost(grid))
        assert float(best.n_params) == pytest.approx(grid[loss.argmin()], rel=2e-4)
        assert float(best.cost) == pytest.approx(1e19)

    def test_every_part_finds_the_same_optimum_where_flops_bend(self) -> None:
        """A recommendation, a study's budgets, its ridge and approach 3."""
        n_params, ratio = (x.ravel() for x in np.meshgrid(SIZES, np.geomspace(5, 200, 5)))
        n_tokens = n_params * ratio
        flops = 6 * n_params * (1 + embeddings(n_params, 1.0, 1 / 3)) * n_tokens
        table = make_table(n_params, n_tokens, LAW.predict(SARDANA, n_params, n_tokens), flops=flops)
        cost, law = training_flops(table), fit(table, bootstrap=20)
        assert cost.bend is not None
        budget = 10 * float(flops.max())
        best = recommend(table, flops=budget, fit=law, vary=False).training_optimal
        assert best.n_params * 1.01 < law_of_a_power(law, budget, cost)  # the nearest power of N says otherwise
        at_budget = budget_optimum(law, budget, cost).optimum
        ridge = compute_ridge(law, cost, budget / 100, budget)
        surface = next(
            one for one in approaches(table, flops=budget, fit=law, bootstrap=20).approaches if one.number == 3
        )
        assert surface.n_opt is not None
        for n_opt in (at_budget.n_params, ridge.mid_G[-1], surface.n_opt.value):
            assert n_opt == pytest.approx(best.n_params, rel=1e-9)
        assert at_budget.n_tokens == pytest.approx(best.n_tokens, rel=1e-9)

    def test_six_n_is_said_plainly(self) -> None:
        cost = training_flops(counted(6 * SIZES))
        assert cost.rule == "6 N FLOPs a token, through the table's own counts"
        assert float(cost(3e9)) == 18e9

    def test_without_flops_every_count_pays_for_all_parameters(self) -> None:
        """6 N of a count without embeddings would be too cheap."""
        inside = SIZES / (1 + embeddings(SIZES, 1.0, 1 / 2))
        cost = training_flops(counted(None, n_params_non_embedding=inside), counting="n_params_non_embedding")
        assert cost(inside) == pytest.approx(6 * SIZES, rel=0.02)
        assert "all parameters" in cost.rule

    def test_a_served_token_is_a_third_where_the_line_bends_too(self) -> None:
        cost = training_flops(counted(6 * SIZES * (1 + embeddings(SIZES, 1.0, 1 / 3))))
        assert flops_costs(cost).serve(SIZES) == pytest.approx(cost(SIZES) / 3)


def law_of_a_power(law: Fit, flops: float, cost: TokenCost) -> float:
    """N_opt where FLOPs are taken for a plain power of N."""
    form = get_law(law.law)
    return float(form.compute_optimum(form.as_vector(law.params), flops, cost.slope, cost.exponent)[0])


def test_a_number_of_bits_is_no_multiplier() -> None:
    with pytest.raises(UserError, match="--quantisation is 8; it multiplies what serving costs"):
        Prices(quantisation=8)
    assert Prices(quantisation=0.5).quantisation == 0.5
