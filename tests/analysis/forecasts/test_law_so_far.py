"""Final losses of runs to come, by the law through those that are finished."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.forecasts.law_so_far import Projection, law_so_far
from analysis.runs.read_sweep import read_sweep
from analysis.runs.table import RunTable
from tests.analysis.synthetic import write_sweep


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> RunTable:
    return read_sweep(write_sweep(tmp_path_factory.mktemp("sweep"), noise=0.003).folder)


def only(table: RunTable, keep: np.ndarray) -> RunTable:
    return replace(table, frame=table.frame[keep].reset_index(drop=True))


def test_runs_left_out_are_projected_within_their_interval(table: RunTable) -> None:
    """Of each size its longest run is unfinished, as in a sweep that is under way."""
    frame = table.frame[~table.frame["held_out"]]
    longest = frame.groupby("n_params")["n_tokens"].transform("max") == frame["n_tokens"]
    law = law_so_far(replace(table, frame=frame[~longest]))
    assert str(law) == f"law so far: {int((~longest).sum())} runs"
    hits = []
    for _, run in frame[longest].iterrows():
        told = law.project(run["n_params"], run["n_tokens"])
        hits.append(abs(told.loss - run["loss"]) <= told.plus_minus)
        assert told.plus_minus < 0.1 * run["loss"]
    assert np.mean(hits) >= 0.8


def test_a_run_far_beyond_the_finished_ones_is_less_sure(table: RunTable) -> None:
    law = law_so_far(table)
    fitted = law.fit.fitted_range
    near = law.project(fitted.n_params.hi, fitted.n_tokens.hi / 4)
    far = law.project(30 * fitted.n_params.hi, 30 * fitted.n_tokens.hi)
    assert far.loss < near.loss
    assert far.plus_minus / far.loss > 1.5 * near.plus_minus / near.loss


def test_no_law_where_it_is_not_identified(table: RunTable) -> None:
    frame = table.frame
    few = law_so_far(only(table, np.arange(len(frame)) < 4))
    assert (few.fit, few.project(1e5, 1e7), str(few)) == (None, None, "no law yet from 4 runs")
    one_size = law_so_far(only(table, (frame["n_params"] == frame["n_params"].min()).to_numpy()))
    assert one_size.fit is None
    assert "1 model size" in one_size.why_not


def test_a_run_that_is_off_the_law_is_named(table: RunTable) -> None:
    frame = table.frame.copy()
    victim = frame.index[(~frame["held_out"]).to_numpy().nonzero()[0][5]]
    frame.loc[victim, "loss"] *= 1.15
    law = law_so_far(replace(table, frame=frame))
    assert list(law.outliers) == [frame.loc[victim, "run_id"]]
    assert "above the law's" in law.outliers[frame.loc[victim, "run_id"]]


@pytest.mark.parametrize(
    ("loss", "plus_minus", "shown"),
    [
        (3.2149, 0.021, "3.21 ± 0.02"),
        (3.2149, 0.0021, "3.215 ± 0.002"),
        (3.2149, 0.3, "3.2 ± 0.3"),
        (3.2, 1.4, "3 ± 1"),
    ],
)
def test_as_many_digits_as_are_known(loss: float, plus_minus: float, shown: str) -> None:
    assert str(Projection(loss=loss, plus_minus=plus_minus)) == shown
