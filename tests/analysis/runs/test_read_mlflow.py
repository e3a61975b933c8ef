"""Runs from MLflow: the mirror of a sweep reads as its folders do, and a foreign experiment by mapped names."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.runs import read_mlflow_store
from analysis.runs.load import load_curves, load_runs
from analysis.runs.read_mlflow_store import open_experiment, read_history, read_stored_runs, search_runs
from analysis.runs.table import RunTable
from llama.errors import UserError
from llama.metric_names import TRAIN_LOSS
from sweeps.tracking import sync
from sweeps.tracking.uri import sqlite_uri
from tests.analysis.synthetic import SyntheticSweep, write_sweep

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSweep, str]:
    storage = tmp_path_factory.mktemp("mirrored")
    made = write_sweep(storage, diverged=1, train_tokens={"code": 10_241, "prose": 10**9})
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
    # The runs noted what they drew, and read as repeating where they drew a domain more than once.
    repeats = folders.loc[usable, "n_tokens"] > 2 * 10_240
    assert repeats.any()
    assert list(folders.loc[usable, "unique_tokens"].notna()) == list(repeats)


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
    with pytest.raises(UserError, match=r"no run .* has 'params\.n_params'.*the nearest is 'params\.model_size'"):
        load_runs(uri, experiment="theirs")
    with pytest.raises(UserError, match=r"the nearest is 'metrics\.eval_loss'"):
        load_runs(uri, experiment="theirs", columns={"n_params": "params.model_size", "n_tokens": "metrics.tokens"})
    with pytest.raises(UserError, match=r"mapped to 'eval_loss': write params\.NAME"):
        load_runs(uri, experiment="theirs", columns={**columns, "loss": "eval_loss"})
    with pytest.raises(UserError, match="'los' is no column of the runs table; the nearest is 'loss'"):
        load_runs(uri, experiment="theirs", columns={"los": "metrics.eval_loss"})
    # The failed run has all it needs, and a person may want it.
    kept = load_runs(uri, experiment="theirs", columns=columns, keep=["failed"])
    assert len(kept.usable) == 3
    assert len(kept.warnings) == 1


def test_seeds_of_a_foreign_experiment_make_cells(mirrored: tuple[SyntheticSweep, str]) -> None:
    """Runs whose params agree in all but their seed; what came out of them, and what MLflow notes itself, tells nothing."""
    from mlflow.tracking import MlflowClient

    uri = mirrored[1]
    client = MlflowClient(uri)
    experiment = client.create_experiment("seeds")
    for size, decay, seed in itertools.product(("1000000", "3000000"), ("0.1", "0.0"), (0, 1, 2)):
        run = client.create_run(
            experiment, tags={"machine": "a" if seed else "b"} if size == "3000000" else {}
        ).info.run_id
        for name, value in {
            "size": size,
            "tokens": "20000000",
            "decay": decay,
            "random_seed": seed,
            "out": run,
        }.items():
            client.log_param(run, name, value)
        client.log_metric(run, "eval/loss", 3.0 + 0.01 * seed + float(decay))
        client.set_terminated(run, "FINISHED")
    frame = load_runs(uri, experiment="seeds", columns={**FOREIGN, "seed": "params.random_seed"}).frame
    small = frame[frame["n_params"] == 1e6]
    assert sorted(small.groupby("design")["seed"].count()) == [3, 3]
    # Of the larger one, a tag tells seed 0 from the others.
    assert sorted(frame[frame["n_params"] == 3e6].groupby("design")["seed"].count()) == [1, 1, 2, 2]
    assert (load_runs(uri, experiment="seeds", columns=FOREIGN).frame["design"] == "").all()


@pytest.fixture(scope="module")
def foreign(mirrored: tuple[SyntheticSweep, str]) -> tuple[str, MlflowClient]:
    """An experiment of somebody else's trainer: steps are steps, sizes are words here and there, one metric is infinite."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    uri = mirrored[1]
    client = MlflowClient(uri)
    experiment = client.create_experiment("gpt")
    for number, (size, batch) in enumerate([("1000000", "512"), ("6.7B", "512"), ("2000000", ""), ("4000000", "1024")]):
        run = client.create_run(experiment, run_name=f"gpt-{number}", start_time=1000 + number).info.run_id
        points = [Metric("train/loss", 4.0 - 0.01 * step, 10 * step, step) for step in range(0, 50, 10)]
        # Step 40 was logged again after a crash, earlier in the list and later in time.
        points.insert(0, Metric("train/loss", 9.0, 1_000, 40))
        points.append(Metric("train/loss", float("nan"), 2_000, 45))
        points += [Metric("tokens_seen", 700.0 * step, 1, step) for step in (0, 40)] if number == 3 else []
        points.append(Metric("eval/loss", float("inf") if number == 2 else 3.0, 500, 40))
        params = [Param("size", size), Param("tokens", "20480"), Param("opt", "adamw" if number else "sgd")]
        client.log_batch(run, points, [*params, *([Param("batch_tokens", batch)] if batch else [])])
        client.set_terminated(run, "FINISHED")
    gone = client.create_run(experiment, run_name="in the trash").info.run_id
    client.delete_run(gone)
    return uri, client


FOREIGN = {"n_params": "params.size", "n_tokens": "params.tokens", "loss": "metrics.eval/loss"}


def test_what_is_no_plain_number_is_refused_a_row(foreign: tuple[str, MlflowClient]) -> None:
    table = load_runs(foreign[0], experiment="gpt", columns=FOREIGN)
    assert {out.reason for out in table.excluded} == {
        "invalid: n_params is '6.7B', which is not a plain number: write 6.7e9",
        "invalid: loss is infinite",
    }
    assert sorted(table.usable["name"]) == ["gpt-0", "gpt-3"]


def test_conditions_name_params_metrics_and_tags(foreign: tuple[str, MlflowClient]) -> None:
    def names(*where: str) -> list[str]:
        return sorted(load_runs(foreign[0], experiment="gpt", columns=FOREIGN, where=where).frame["name"])

    assert names("params.opt=adamw", "tags.mlflow.runName!=gpt-1") == ["gpt-2", "gpt-3"]
    assert names("tokens_per_param<0.01") == ["gpt-3"]
    assert names("n_params>=2e6") == ["gpt-2", "gpt-3"]
    with pytest.raises(UserError, match=r"names 'params\.optim'.*the nearest is 'params\.opt'"):
        names("params.optim=sgd")
    with pytest.raises(UserError, match=r"params\.opt is 'adamw' or 'sgd'"):
        names("params.opt=adam")


def test_a_database_holds_for_both_ways_of_reading_it(
    mirrored: tuple[SyntheticSweep, str], foreign: tuple[str, MlflowClient]
) -> None:
    for uri, name in ((mirrored[1], "synthetic"), (foreign[0], "gpt")):
        experiment = open_experiment(uri, name)
        by_query, by_client = read_stored_runs(experiment), search_runs(experiment)
        assert [run.id for run in by_query] == [run.id for run in by_client]
        for ours, theirs in zip(by_query, by_client, strict=True):
            assert ours.status == theirs.status
            assert ours.params == theirs.params
            assert ours.tags == theirs.tags
            assert ours.metrics == pytest.approx(theirs.metrics, rel=0, nan_ok=True)


def test_histories_are_the_clients(mirrored: tuple[SyntheticSweep, str]) -> None:
    experiment = open_experiment(mirrored[1], "synthetic")
    runs = read_stored_runs(experiment)
    history = read_history(experiment, TRAIN_LOSS, runs)
    for number in (0, len(runs) // 2, len(runs) - 1):
        ours = history.run_G == number
        theirs = sorted(experiment.client.get_metric_history(runs[number].id, TRAIN_LOSS), key=lambda each: each.step)
        assert list(history.step_G[ours]) == [each.step for each in theirs]
        assert list(history.value_G[ours]) == [each.value for each in theirs]


def test_the_mirrors_curves_are_the_journals(mirrored: tuple[SyntheticSweep, str]) -> None:
    made, uri = mirrored
    journals = {curve.run_id: curve for curve in load_curves(made.folder)}
    mirror = {curve.run_id: curve for curve in load_curves(uri, experiment="synthetic")}
    # These trunks were written without checkpoints, and the mirror shows nothing that a resume could rewrite.
    assert mirror.keys() == {run_id for run_id, curve in journals.items() if curve.kind != "trunk"}
    for run_id, curve in mirror.items():
        for field, values in vars(curve).items():
            np.testing.assert_array_equal(values, getattr(journals[run_id], field), err_msg=f"{curve.name} {field}")


def test_a_servers_curves_are_its_databases(mirrored: tuple[SyntheticSweep, str]) -> None:
    from mlflow.server import app, handlers
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    made, uri = mirrored
    handlers.initialize_backend_stores(uri, uri, str(made.storage))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        served = f"http://127.0.0.1:{server.server_port}"
        tables = [load_runs(each, experiment="synthetic").frame.set_index("run_id") for each in (served, uri)]
        curves = [load_curves(each, experiment="synthetic") for each in (served, uri)]
        # A request for the histories of two runs at a time joins up as one for all of them.
        experiment = open_experiment(served, "synthetic")
        runs = read_stored_runs(experiment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(read_mlflow_store, "RUNS_A_REQUEST", 2)
            parted = read_history(experiment, TRAIN_LOSS, runs)
        whole = read_history(experiment, TRAIN_LOSS, runs)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    pd.testing.assert_frame_equal(tables[0].drop(columns="mlflow_url"), tables[1].drop(columns="mlflow_url"))
    assert tables[0]["mlflow_url"].str.startswith(f"{served}/#/experiments/").all()
    assert len(curves[0]) == len(curves[1]) > 20
    for ours, theirs in zip(*curves, strict=True):
        assert ours.run_id == theirs.run_id
        np.testing.assert_array_equal(ours.train_loss_G, theirs.train_loss_G)
        np.testing.assert_array_equal(ours.val_tokens_G, theirs.val_tokens_G)
    for one, other in zip(parted, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_step_is_worth_is_stated_or_there_is_no_curve(foreign: tuple[str, MlflowClient]) -> None:
    curves = {curve.name: curve for curve in load_curves(foreign[0], experiment="gpt", columns=FOREIGN)}
    # gpt-1 has no size in numbers, gpt-2 no batch.
    assert sorted(curves) == ["gpt-0", "gpt-3"]
    first = curves["gpt-0"]
    assert list(first.train_tokens_G) == [512.0 * step for step in (0, 10, 20, 30, 40)]
    assert list(first.train_loss_G) == [4.0, 3.9, 3.8, 3.7, 9.0]
    assert (list(first.val_tokens_G), list(first.val_loss_G)) == ([512.0 * 40], [3.0])
    assert (first.kind, first.trunk, first.n_params) == ("run", None, 1e6)
    seen = {
        curve.name: curve
        for curve in load_curves(foreign[0], experiment="gpt", columns={**FOREIGN, "n_tokens": "metrics.tokens_seen"})
    }
    # Interpolated between the steps at which tokens were logged.
    assert list(seen["gpt-3"].train_tokens_G) == [700.0 * step for step in (0, 10, 20, 30, 40)]
    # A final loss that is a param has no history, and the training's is there all the same.
    as_param = load_curves(foreign[0], experiment="gpt", columns={**FOREIGN, "loss": "params.size"})
    assert [len(curve.val_loss_G) for curve in as_param] == [0] * len(as_param)
    assert as_param
    with pytest.raises(UserError, match=r"train_loss is mapped to 'params\.x', which has no history"):
        load_curves(foreign[0], experiment="gpt", columns={**FOREIGN, "train_loss": "params.x"})


def test_only_the_curves_of_the_runs_asked_for(mirrored: tuple[SyntheticSweep, str]) -> None:
    made, uri = mirrored
    table = load_runs(made.folder, where=["seed=1"])
    curves = load_curves(made.folder, runs=table)
    assert {curve.run_id for curve in curves if curve.kind == "branch"} == set(table.usable["run_id"])
    assert {curve.run_id for curve in curves if curve.kind == "trunk"} == set(table.usable["group"])
    mirror = load_runs(uri, experiment="synthetic", where=["params.seed=1"])
    curves = load_curves(uri, experiment="synthetic", runs=mirror)
    assert {curve.run_id for curve in curves} == set(mirror.frame["run_id"]) == set(table.frame["run_id"])


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_runs(sqlite_uri(tmp_path / "none.db"), experiment="synthetic")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.db").write_text("no database" * 1000, encoding="utf-8")
    with pytest.raises(UserError, match="can't be read"):
        load_runs(sqlite_uri(tmp_path / "text.db"), experiment="synthetic")


def test_a_server_that_is_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1:9 can't be read") as caught:
        load_runs("http://ada:s3cret@127.0.0.1:9", experiment="x")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UserError, match=r"^http://\*\*\*@127"):
        load_runs("http://ada:s3cret@127.0.0.1:9")
