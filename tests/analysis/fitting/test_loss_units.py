"""Bits a token pooled with nats a token are found and named; tables in one unit never are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting.fit import fit
from analysis.fitting.loss_units import check_units
from analysis.results import Array
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design


def pooled(seed: int) -> tuple[Array, Array, Array, set[str]]:
    """20 to 120 runs with 0 to 2 % of noise, at least three of them in either unit; the names of those in bits."""
    rng = np.random.default_rng(seed)
    runs = int(rng.integers(20, 121))
    n, d = spread_design(runs, rng)
    loss = predict(BESIROGLU, n, d) * np.exp(rng.uniform(0, 0.02) * rng.standard_normal(runs))
    in_bits = rng.permutation(runs)[: int(rng.integers(3, runs - 2))]
    loss[in_bits] /= np.log(2)
    return n, d, loss, {f"run-{i}" for i in in_bits}


def test_pooled_units_are_refused_with_the_rows_named() -> None:
    """Of a hundred tables, some with three odd rows in a hundred, nearly all; and never a row of the other unit."""
    messages = {}
    for seed in range(100):
        n, d, loss, _ = pooled(seed)
        try:
            check_units(n, d, loss, [f"run-{i}" for i in range(len(loss))])
        except UserError as error:
            messages[seed] = str(error)
    for seed, message in messages.items():
        named, in_bits = set(re.findall(r"run-\d+", message)), pooled(seed)[3]
        assert named <= in_bits if "1.44 times" in message else named.isdisjoint(in_bits)
    assert len(messages) >= 95


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    runs=st.integers(12, 120),
    alpha=st.floats(0.1, 1.5),
    beta=st.floats(0.1, 1.5),
    of_size=st.floats(0.05, 5),
    of_data=st.floats(0.05, 5),
    limit=st.floats(0, 3),
    outliers=st.floats(0, 0.1),
    size=st.floats(0.02, 0.4),
)
def test_one_unit_never_trips_it(
    seed: int,
    runs: int,
    alpha: float,
    beta: float,
    of_size: float,
    of_data: float,
    limit: float,
    outliers: float,
    size: float,
) -> None:
    """Sharper laws than any published, with up to a tenth of the runs off by tens of per cent."""
    rng = np.random.default_rng(seed)
    n, d = spread_design(runs, rng)
    loss = 0.1 + limit + of_size * (n / 9e8) ** -alpha + of_data * (d / 3e10) ** -beta
    off = rng.random(runs) < outliers
    loss = loss * np.exp(0.01 * rng.standard_normal(runs) + off * size * rng.standard_normal(runs))
    check_units(n, d, loss, [""] * runs)


def test_a_few_rows_among_hundreds_are_found_by_the_fit() -> None:
    rng = np.random.default_rng(0)
    n, d = spread_design(300, rng)
    loss = predict(BESIROGLU, n, d) * np.exp(0.01 * rng.standard_normal(300))
    loss[[5, 50, 200]] /= np.log(2)
    with pytest.raises(UserError, match=r"3 of 300 losses are 1\.44 times .* \(run-5, run-50, run-200\)"):
        fit(make_table(n, d, loss), bootstrap=0)


def test_two_rows_are_outliers() -> None:
    rng = np.random.default_rng(0)
    n, d = spread_design(100, rng)
    loss = predict(BESIROGLU, n, d) * np.exp(0.01 * rng.standard_normal(100))
    loss[[5, 50]] /= np.log(2)
    assert {run.run_id for run in fit(make_table(n, d, loss), bootstrap=0).outliers} == {"run-5", "run-50"}


def test_runs_that_state_their_unit_are_believed() -> None:
    n, d, loss, _ = pooled(0)
    table = make_table(n, d, loss)
    with pytest.raises(UserError, match="column loss_unit"):
        fit(table, bootstrap=0)
    assert fit(RunTable(source="", frame=table.frame.assign(loss_unit="nats")), bootstrap=0).n_runs == len(loss)
