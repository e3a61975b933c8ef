"""Runs from MLflow: the mirror of a sweep reads as its folders do, and a foreign experiment by mapped names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.fitting import fit
from analysis.runs import load_runs
from analysis.table import RunTable
from llama.errors import UserError
from sweeps.tracking import sync
from sweeps.tracking.uri import sqlite_uri
from tests.analysis.synthetic import SyntheticSweep, write_sweep


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSweep, str]:
    storage = tmp_path_factory.mktemp("mirrored")
    made = write_sweep(storage, diverged=1)
    uri = sqlite_uri(storage / "mlflow.db")
    sync(storage, made.index, uri)
    return made, uri


@pytest.fixture(scope="module")
def tables(mirrored: tuple[SyntheticSweep, str]) -> tuple[RunTable, RunTable]:
    made, uri = mirrored
    return load_runs(made.folder), load_runs(uri, experiment="synthetic")


def test_the_mirror_holds_what_the_folders_do(tables: tuple[RunTable, RunTable]) -> None:
    folders, mirror = (table.frame.set_index("run_id").sort_index() for table in tables)
    same = [name for name in folders.columns if name not in ("design", "status", "mlflow_url", "excluded")]
    usable = folders.index[folders["excluded"] == ""]
    pd.testing.assert_frame_equal(mirror.loc[usable, same], folders.loc[usable, same])
    assert list(mirror.index) == list(folders.index)


def test_seeds_are_grouped_alike(tables: tuple[RunTable, RunTable]) -> None:
    cells = [{frozenset(runs) for runs in table.usable.groupby("design")["run_id"].agg(list)} for table in tables]
    assert cells[0] == cells[1]


def test_what_diverged_stays_out(tables: tuple[RunTable, RunTable]) -> None:
    assert [out.reason.partition(":")[0] for out in tables[1].excluded] == ["diverged"]


def test_both_fit_alike(tables: tuple[RunTable, RunTable]) -> None:
    first, second = (fit(table, bootstrap=0) for table in tables)
    assert first.params == pytest.approx(second.params, rel=1e-9)


def test_an_unknown_experiment_names_those_there_are(mirrored: tuple[SyntheticSweep, str]) -> None:
    with pytest.raises(UserError, match=r"no experiment 'sinthetic'; it has .*'synthetic'"):
        load_runs(mirrored[1], experiment="sinthetic")
    with pytest.raises(UserError, match="name the experiment"):
        load_runs(mirrored[1])


def test_a_foreign_experiment_is_mapped(tmp_path: Path, mirrored: tuple[SyntheticSweep, str]) -> None:
    from mlflow.tracking import MlflowClient

    uri = mirrored[1]
    client = MlflowClient(uri)
    experiment = client.create_experiment("theirs")
    for i in range(3):
        run = client.create_run(experiment).info.run_id
        client.log_param(run, "model_size", str(10 ** (6 + i)))
        client.log_metric(run, "tokens", 1e9)
        client.log_metric(run, "eval_loss", 3.0 - 0.1 * i)
        client.set_terminated(run, "FINISHED" if i else "FAILED")
    columns = {"n_params": "params.model_size", "n_tokens": "metrics.tokens", "loss": "metrics.eval_loss"}
    table = load_runs(uri, experiment="theirs", columns=columns)
    assert sorted(table.usable["n_params"]) == [1e7, 1e8]
    assert [out.reason for out in table.excluded] == ["failed"]
    with pytest.raises(UserError, match=r"no run .* has 'params\.n_params'.*params\.model_size"):
        load_runs(uri, experiment="theirs")
