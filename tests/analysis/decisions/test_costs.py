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
from analysis.laws import get_law
from analysis.results import Array, Question
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


def test_a_number_of_bits_is_no_multiplier() -> None:
    with pytest.raises(UserError, match="--quantisation is 8; it multiplies what serving costs"):
        Prices(quantisation=8)
    assert Prices(quantisation=0.5).quantisation == 0.5
