"""Both searches for real: tiny runs through the supervisor and a local worker, into MLflow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from cluster.local_executor import LocalExecutor
from llama.errors import UserError
from llama.records import DONE, read_inference
from sweeps.command import app
from sweeps.designs.spec import SweepSpec
from sweeps.hardware.place import this_place
from sweeps.launching.launch import launch_sweep
from sweeps.planning.prepare import prepare
from sweeps.storage import Storage, open_sweep
from sweeps.tracking.uri import sqlite_uri
from sweeps.tuning.rate_study import RateStudy
from sweeps.tuning.shape_study import ShapeStudy
from sweeps.tuning.tune import Tuned, run_tuning, tune_sweep
from sweeps.watching.status import sweep_status
from tests.sweeps.tiny_sweep import TINY, write

RATES = TINY | {
    "ladder": {"widths": [4, 8, 12], "context_length": 32},
    "budgets": {"tokens": [2_048]},
    "inference": False,
    "tune": {
        "learning_rate": {
            "trials": 6,
            "lr_multiples": {"low": 0.05, "high": 500},
            "prune": {"at": 0.5, "above": 0.5, "after": 4},
            "check_seeds": [0, 1],
        }
    },
}
SHAPES = TINY | {
    "ladder": {"widths": [8], "context_length": 32},
    "budgets": {"flops": [2e8]},
    "inference": {"max_batch": 2, "prompt_tokens": 4, "output_tokens": 4, "repetitions": 5},
    "tune": {"shape": {"widths": [4, 8], "layers": [1, 2], "heads": [1, 2], "trials": 6, "at_once": 3}},
}


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(cpus=1, gpus=[]) as local:
        yield local


def tuned(values: dict, folder: Path, executor: LocalExecutor) -> Tuned:
    place = this_place()
    prepared = prepare(write(values, folder), Storage(folder / "storage"), place, say=lambda line: None)
    return run_tuning(prepared, place, lambda: executor, sqlite_uri(folder / "mlflow.db"), say=lambda line: None)


def finished_at(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "storage" / "runs").glob(f"*/{DONE}")}


def mlflow_runs(folder: Path) -> list:
    client = MlflowClient(sqlite_uri(folder / "mlflow.db"))
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


@pytest.mark.slow
def test_rates_are_tuned_and_shown_and_not_trained_twice(tmp_path: Path, executor: LocalExecutor) -> None:
    found = tuned(RATES, tmp_path, executor)
    study = found.study
    assert isinstance(study, RateStudy)
    assert found.mirror_trouble is None
    assert [cell.held_out for cell in study.cells] == [False, False, True]
    assert study.held_out[0].difference is not None

    recipe = yaml.safe_load((found.report / "recipe.yaml").read_text())["recipe"]
    SweepSpec.model_validate(RATES | {"recipe": recipe, "tune": None})
    assert {path.suffix for path in found.report.iterdir()} == {".json", ".csv", ".png", ".svg", ".yaml"}

    runs = mlflow_runs(tmp_path)
    states = [run.data.tags["tune.state"] for run in runs if "tune.state" in run.data.tags]
    assert len(states) == 18
    assert set(states) <= {"finished", "censored", "diverged"}
    assert "censored" in states
    for run in runs:
        if run.data.tags.get("tune.state") == "censored":
            assert run.info.status == "KILLED"
            assert not (tmp_path / "storage" / "runs" / run.data.tags["run.key"] / DONE).exists()
    parent = next(run for run in runs if run.data.tags["run.kind"] == "sweep")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["tune/peak_lr/n_exponent"] == study.peak_lr.n_exponent

    before = finished_at(tmp_path)
    assert tuned(RATES, tmp_path, executor).study == study
    assert finished_at(tmp_path) == before
    status = sweep_status(open_sweep("tiny", Storage(tmp_path / "storage")))
    assert len(status.runs) >= 18 + 2
    stopped = [run.note for run in status.runs if run.state == "stopped"]
    assert len(stopped) == states.count("censored")
    assert all(note is not None and note.startswith("censored") for note in stopped)


def test_shapes_are_tuned_by_their_measured_cost(tmp_path: Path, executor: LocalExecutor) -> None:
    found = tuned(SHAPES, tmp_path, executor)
    study = found.study
    assert isinstance(study, ShapeStudy)
    assert found.mirror_trouble is None
    assert study.front
    storage = Storage(tmp_path / "storage")
    for one in study.front:
        assert one.trial.decode_cost is not None
        assert one.trial.decode_cost > 0
        assert one.trial.number < 0 or read_inference(storage.run(one.trial.run_keys[0])) is not None
    tags = [run.data.tags for run in mlflow_runs(tmp_path) if run.data.tags["run.kind"] == "run"]
    assert {tag["tune.trial"] for tag in tags} <= {"-1", *map(str, range(6))}
    assert {tag["tune.state"] for tag in tags} == {"finished"}
    measured = {path: path.stat().st_mtime_ns for path in (storage.sweep("tiny") / "tuning" / "decode").iterdir()}
    assert len(measured) == 3  # two generations, and the front again
    assert tuned(SHAPES, tmp_path, executor).study == study
    again = [run.data.tags for run in mlflow_runs(tmp_path) if run.data.tags["run.kind"] == "run"]
    assert {tag["run.key"] for tag in again} == {tag["run.key"] for tag in tags}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in measured.items())


def unopened() -> LocalExecutor:
    raise AssertionError("there is nothing to train")


def test_a_study_that_has_ended_needs_no_executor(tmp_path: Path, executor: LocalExecutor) -> None:
    values = SHAPES | {"tune": {"shape": {"widths": [4], "layers": [1, 2], "heads": [1], "trials": 6, "at_once": 6}}}
    found = tuned(values, tmp_path, executor)
    place, storage = this_place(), Storage(tmp_path / "storage")
    prepared = prepare(write(values, tmp_path), storage, place, say=print)
    again = run_tuning(prepared, place, unopened, sqlite_uri(tmp_path / "mlflow.db"), say=print)
    assert again.study == found.study

    damaged = storage.run(found.study.reference.trial.run_keys[0]) / DONE
    damaged.write_text("{")
    again = run_tuning(prepared, place, lambda: executor, sqlite_uri(tmp_path / "mlflow.db"), say=print)
    assert again.study == found.study
    assert damaged.with_name(f"{DONE}.damaged").exists()


@pytest.mark.parametrize(
    ("values", "trials", "runs", "tokens"),
    [(RATES, 18, 18 + 4, 22 * 2_048), (SHAPES, 6, 7, None)],
)
def test_the_plan_of_a_study_is_how_large_it_may_get(
    tmp_path: Path, values: dict, trials: int, runs: int, tokens: int | None
) -> None:
    arguments = ["plan", write(values, tmp_path), "--storage", str(tmp_path / "storage"), "--json"]
    document = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert (document["trials"], document["runs"]) == (trials, runs)
    assert tokens is None or document["tokens"] == tokens
    if tokens is None:
        assert document["flops"] == 7 * 2e8
    refused = CliRunner().invoke(app, [*arguments, "--compare"])
    assert isinstance(refused.exception, UserError)
    assert "is a tuning study" in str(refused.exception)


def test_a_search_for_shapes_has_to_measure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="decode cost is measured as the block inference says"):
        tune_sweep(write(SHAPES | {"inference": False}, tmp_path), Storage(tmp_path), say=print)


def test_rates_and_seeds_that_a_study_sets_itself_are_refused(tmp_path: Path) -> None:
    cell = {"size": "w8", "tokens": 2_048, "seed": 3, "lr_multiplier": 2.0}
    given = {"budgets": [RATES["budgets"], {"cells": [cell]}], "seeds": {"extra": [{"sizes": ["w4"], "seeds": [7]}]}}
    with pytest.raises(
        UserError, match=r"leave out seed of budgets\.cells and lr_multiplier of budgets\.cells and seeds"
    ):
        tune_sweep(write(RATES | given, tmp_path), Storage(tmp_path), say=print)


def test_a_study_is_no_sweep_and_a_sweep_no_study(tmp_path: Path) -> None:
    plain = write({key: value for key, value in RATES.items() if key != "tune"}, tmp_path / "plain")
    with pytest.raises(UserError, match="the block tune is missing"):
        tune_sweep(plain, Storage(tmp_path), say=print)
    with pytest.raises(UserError, match="isoloss tune runs it"):
        launch_sweep(write(RATES, tmp_path), Storage(tmp_path / "storage"), say=lambda line: None)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"learning_rate": {"trials": 3}}, "trials: found 3; a number from 6 is right"),
        ({"learning_rate": {"trials": 8, "at_once": 3}}, "trials: found 8; a multiple of at_once, 3, is right"),
        ({"learning_rate": {"trials": 8, "batch_token": [512]}}, "unknown key; did you mean 'batch_tokens'"),
        (
            {"learning_rate": {"trials": 8, "lr_multiples": {"low": 1, "high": 2}}},
            "high: found 2; at least 4 times low",
        ),
        ({"shape": {"widths": [8], "layers": [1], "heads": [1], "trials": 6}}, "a ladder of one shape to compare with"),
        ({"shape": {"widths": [6], "layers": [1], "heads": [2], "trials": 6}}, "width 6 has no even heads"),
        ({}, "give one of learning_rate and shape"),
    ],
)
def test_what_is_wrong_in_the_block_is_named(tmp_path: Path, tune: dict, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(RATES | {"tune": tune}))
    result = CliRunner().invoke(app, ["tune", str(path), "--storage", str(tmp_path / "storage")])
    assert message in str(result.exception)
    assert "line" in str(result.exception)
