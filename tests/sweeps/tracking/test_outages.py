"""Whatever MLflow answers, and whenever the uploader dies: at the end MLflow equals the journals, each point once, in order.

The store is a real one on SQLite. Between it and the mirror stand faults as a network has them: a request that never comes
through, one that is carried out but whose answer is lost, one that is carried out long after it was given up, and one that
breaks off in the middle of its metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from llama.config import RunConfig
from llama.metric_names import TAG_OUTCOME
from llama.records import JOURNAL, read_done
from sweeps.tracking import Mirror
from sweeps.tracking.uri import sqlite_uri
from tests.sweeps.tracking.reading import assert_mirrors, journal_rows, mirrored_rows, mirrored_runs
from tests.sweeps.tracking.synthetic import begin, make_point, plan_sweep, write_done, write_mark, write_points

INDEX, CONFIGS = plan_sweep(widths=(16,), budgets=(1e10, 2e10))
RUNS = [CONFIGS[run.key] for run in INDEX.runs]
WRITES = ("create_experiment", "create_run", "log_batch", "set_terminated", "update_run", "delete_run")
FAULTS = ("none", "none", "refused", "lost", "late", "broken off")


class Network:
    """Gives each write to MLflow the next of its `faults`; none once they are used up."""

    def __init__(self, patch: pytest.MonkeyPatch, faults: list[str]):
        self._faults = faults
        self._late: list[Callable[[], object]] = []
        for name in WRITES:
            patch.setattr(MlflowClient, name, self._faulty(getattr(MlflowClient, name)))

    def _faulty(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
            fault = self._faults.pop(0) if self._faults else "none"
            if fault == "none":
                return write(client, *arguments, **options)
            if fault == "lost":
                write(client, *arguments, **options)
            elif fault == "late":
                self._late.append(lambda: write(client, *arguments, **options))
            elif fault == "broken off" and write.__name__ == "log_batch":
                run_id, metrics, params, _ = arguments
                write(client, run_id, metrics[: len(metrics) // 2], params, [])
            raise ConnectionError("timed out")

        return faulty

    def deliver_late(self) -> None:
        """What was given up arrives after all; MLflow itself may refuse it by now."""
        while self._late:
            try:
                self._late.pop(0)()
            except MlflowException as error:
                if "already exists" not in str(error) and "active" not in str(error):
                    raise


def go_on_training(storage: Path, config: RunConfig, *, step: int, late_ms: int) -> None:
    """From the last checkpoint, by two steps and another; a branch that gets to its end is done."""
    end = config.steps or 200
    folder = begin(storage, config)
    first = config.fork_step or 0
    points = [make_point(config, min(first + step * 2 + more, end)) for more in (1, 2)]
    points = [point.model_copy(update={"unix_ms": point.unix_ms + late_ms}) for point in points]
    write_mark(folder, config, points[-1].step, write_points(folder, points))


def cut_back(storage: Path, config: RunConfig, *, late_ms: int) -> None:
    """The newest checkpoint was bad: the last point is made again."""
    path = storage / "runs" / config.key / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    point = make_point(config, (config.fork_step or 0) + len(lines))
    again = point.model_copy(update={"unix_ms": point.unix_ms + late_ms})
    write_points(path.parent, [again], keep_bytes=sum(map(len, lines[:-1])))


def assert_in_order(database: Path, storage: Path) -> None:
    """Whatever MLflow has of a run, it has all that is older."""
    rows = mirrored_rows(database)
    for config in RUNS:
        mirrored = rows.get(config.key, Counter())
        times = [unix_ms for _, _, unix_ms, _ in mirrored]
        older = {row for row in journal_rows(storage, config.key) if times and row[2] < max(times)}
        assert older <= set(mirrored)


ACTIONS = st.one_of(
    st.tuples(st.just("train"), st.integers(0, len(RUNS) - 1)),
    st.tuples(st.just("cut back"), st.integers(0, len(RUNS) - 1)),
    st.tuples(st.sampled_from(["uploader dies", "late arrivals"]), st.just(0)),
)


@pytest.fixture(scope="module")
def new_storage(tmp_path_factory: pytest.TempPathFactory, empty_database: bytes) -> Callable[[], Path]:
    """Makes a storage folder with an empty store."""

    def make() -> Path:
        storage = tmp_path_factory.mktemp("storage")
        (storage / "mlflow.db").write_bytes(empty_database)
        return storage

    return make


def check_outages(storage: Path, actions: list[tuple[str, int]], faults: list[str], patch: pytest.MonkeyPatch) -> None:
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setattr("sweeps.tracking.mirror.LAST_WAIT_SECONDS", 0.0)
    database = storage / "mlflow.db"
    uri = sqlite_uri(database)
    faults = list(faults)
    network = Network(patch, faults)
    mirror = Mirror(storage, INDEX, uri)
    steps: Counter[str] = Counter()
    for number, (action, which) in enumerate(actions):
        config, late_ms = RUNS[which], 1000 * number
        if action == "train":
            go_on_training(storage, config, step=steps[config.key], late_ms=late_ms)
            steps[config.key] += 1
        elif action == "cut back" and steps[config.key]:
            cut_back(storage, config, late_ms=late_ms)
        elif action == "uploader dies":
            mirror._claim.release()
            mirror = Mirror(storage, INDEX, uri)
        elif action == "late arrivals":
            network.deliver_late()
        mirror._try_pass(live=True)
        if action != "cut back":
            assert_in_order(database, storage)
    for config in RUNS:
        folder = begin(storage, config)
        if config.is_trunk:
            write_mark(folder, config, 199, write_points(folder, [make_point(config, 199)]))
        else:
            write_points(folder, [make_point(config, config.steps or 0, validated=True)])
            write_done(folder, config, config.steps or 0)
    mirror._try_pass(live=True)
    network.deliver_late()
    faults.clear()
    mirror.start()
    report = mirror.stop(60)
    assert (report.trouble, report.behind) == (None, ())
    assert_mirrors(database, storage, INDEX)
    for run in INDEX.runs:
        [mirrored] = mirrored_runs(database)[run.key]
        assert mirrored[TAG_OUTCOME] == "finished", run.name
        assert mirrored["status"] == "FINISHED"
        assert run.is_trunk or read_done(storage / "runs" / run.key) is not None
    [parent] = mirrored_runs(database)[""]
    assert parent["status"] == "FINISHED"
    assert {run["mlflow.parentRunId"] for key, [run] in mirrored_runs(database).items() if key} == {parent["run_uuid"]}


SCHEDULES = given(
    actions=st.lists(ACTIONS, min_size=3, max_size=8),
    faults=st.lists(st.sampled_from(FAULTS), min_size=4, max_size=25),
)


#: Rows of a journal that was cut back since arrive late, and then the newer ones: the cursor is the newer ones'.
CUT_BACK_BETWEEN_LATE_CALLS = example(
    actions=[("train", 0), ("train", 1), ("train", 0), ("cut back", 0)],
    faults=["none", "none", "lost", "none", "broken off", "late", "none", "none", "late"],
)


@CUT_BACK_BETWEEN_LATE_CALLS
@SCHEDULES
@settings(deadline=None, max_examples=6)
def test_nothing_is_lost_or_doubled(
    new_storage: Callable[[], Path], actions: list[tuple[str, int]], faults: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        check_outages(new_storage(), actions, faults, patch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@SCHEDULES
@settings(deadline=None, max_examples=150)
def test_nothing_is_lost_or_doubled_in_many_more_schedules(
    new_storage: Callable[[], Path], actions: list[tuple[str, int]], faults: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        check_outages(new_storage(), actions, faults, patch)
