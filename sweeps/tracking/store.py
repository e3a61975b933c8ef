"""One sweep's experiment in MLflow: the only module that calls MLflow's client.

Every call fails fast (one request, seconds of timeout, no retries inside) and every failure is a TrackingError without
credentials in its text: who calls decides when to try again. MLflow is imported when a Store is made, 1 CPU second.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runs.mlflow_uri import masked, sqlite_path
from llama.metric_names import TAG_RUN_KEY, TAG_RUN_KIND
from llama.sweep_index import SweepIndex
from sweeps.tracking.datasets import DatasetInput
from sweeps.tracking.journal_reader import Cursor
from sweeps.tracking.moved import artifact_place, mend_artifact_places
from sweeps.tracking.names import KIND_SWEEP, TAG_CURSOR, TAG_MEMBER, TAG_MIRROR_ID, TAG_REPORT, sweep_tags
from sweeps.tracking.uri import is_server, sqlite_uri
from sweeps.tracking.view import experiment_tags

#: MLflow's limits for one log_batch call: of all it holds, of params, of tags.
ITEMS_A_CALL = 1000
PARAMS_A_CALL = 100
TAGS_A_CALL = 100
#: A page of runs holds all their params and tags: small enough for a busy server to answer in time.
RUNS_A_PAGE = 200
ACTIVE_ONLY = 1
"""MLflow's ViewType.ACTIVE_ONLY: runs that are not in the trash."""

#: MLflow reads these from the environment only; where a person has set one, that holds. With MLflow's own timeout and retries
#: a dead server blocks 247 s; its URLs would be printed across the live table; and nobody asked for telemetry.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class TrackingError(Exception):
    """MLflow was not reached or refused; the text is one line without credentials."""


@dataclass(kw_only=True)
class MlflowRun:
    """What MLflow holds of one run, kept in step with what is sent."""

    run_id: str
    tags: dict[str, str]
    param_names: set[str]
    status: str
    inputs: set[tuple[str, str]]
    """(name, digest) of its datasets."""


class Store:
    """The experiment of one sweep.

    Raises (here and in every method):
        TrackingError
    """

    def __init__(self, tracking_uri: str, *, storage: Path, index: SweepIndex, mirror_id: str):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with _translated():
            from mlflow.tracking import MlflowClient

            # What MLflow would log with a traceback reaches our caller as an exception.
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            path = sqlite_path(tracking_uri)
            if path is not None:
                if not path.exists():
                    _create_sqlite_store(path, artifact_place(storage))
                mend_artifact_places(path, storage)
            self._client = MlflowClient(tracking_uri)
            # A server decides itself where artifacts go; beside a bare database they belong with the runs.
            location = None if is_server(tracking_uri) else artifact_place(storage, index.sweep)
            self.experiment_id = self._open_experiment(index, mirror_id, location)

    def _open_experiment(self, index: SweepIndex, mirror_id: str, location: str | None) -> str:
        """The experiment that mirrors this sweep's folder, found by its tag so that a person may rename it."""
        from mlflow.entities import ViewType

        found = self._client.search_experiments(
            view_type=ViewType.ALL, filter_string=f"tags.`{TAG_MIRROR_ID}` = '{mirror_id}'"
        )
        if found:
            experiment = found[0]
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            new = {name: value for name, value in experiment_tags().items() if experiment.tags.get(name) != value}
            for name, value in new.items():
                self._client.set_experiment_tag(experiment.experiment_id, name, value)
            return str(experiment.experiment_id)
        name = index.sweep
        if self._client.get_experiment_by_name(name) is not None:
            name = f"{index.sweep}-{mirror_id[:6]}"  # the plain name belongs to somebody else's sweep
        return str(self._client.create_experiment(name, location, {TAG_MIRROR_ID: mirror_id, **experiment_tags()}))

    def find_runs(self) -> dict[str, MlflowRun]:
        """Every mirrored run by its key. Of doubles, which a request that timed out can leave, all but the fullest go."""
        return self._without_doubles(f"tags.`{TAG_RUN_KEY}` != ''")

    def find_run(self, key: str) -> MlflowRun | None:
        """The mirrored run of one key, as `find_runs` has it."""
        return self._without_doubles(f"tags.`{TAG_RUN_KEY}` = '{key}'").get(key)

    def _without_doubles(self, filter_string: str) -> dict[str, MlflowRun]:
        best: dict[str, MlflowRun] = {}
        for run in self._search(filter_string):
            other = best.get(run.tags[TAG_RUN_KEY])
            if other is not None:
                run, spare = sorted((run, other), key=_mirrored_bytes, reverse=True)
                self.delete(spare)
            best[run.tags[TAG_RUN_KEY]] = run
        return best

    def find_retired(self) -> dict[str, MlflowRun]:
        """Runs in MLflow's trash that `retire` put there, by key; what a person deleted is not among them."""
        from mlflow.entities import ViewType

        found = self._search(f"tags.`{TAG_MEMBER}` = 'false'", view_type=ViewType.DELETED_ONLY)
        return {run.tags[TAG_RUN_KEY]: run for run in found}

    def open_parent(self, index: SweepIndex) -> MlflowRun:
        """The run that holds the sweep's report and plots, made where there is none. Of doubles the one with a report stays."""
        found = list(self._search(f"tags.`{TAG_RUN_KIND}` = '{KIND_SWEEP}'"))
        if not found:
            return self.create(index.sweep, tags=sweep_tags(index, self.experiment_id), start_ms=None)
        parent, *spares = sorted(found, key=lambda run: TAG_REPORT not in run.tags)
        for spare in spares:
            self.delete(spare)
        self.log(parent, tags=sweep_tags(index, self.experiment_id))
        return parent

    def create(self, name: str, *, tags: dict[str, str], start_ms: int | None) -> MlflowRun:
        with _translated():
            run = self._client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=name)
        return MlflowRun(run_id=run.info.run_id, tags=dict(tags), param_names=set(), status="RUNNING", inputs=set())

    def log(
        self,
        run: MlflowRun,
        *,
        metrics: Iterable[tuple[str, float, int, int]] = (),
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Send params that are not there yet, metrics (name, value, unix_ms, step), and tags that differ, in as few calls as
        MLflow's limits allow. Tags are in the last call, and MLflow's stores write a call's tags after its metrics: a tag
        may vouch for the metrics that it is sent with.

        A param that is there with another value stays: params never change, and MLflow would refuse.
        """
        from mlflow.entities import Metric, Param, RunTag

        rows = [Metric(name, value, unix_ms, step) for name, value, unix_ms, step in metrics]
        new_params = {name: value for name, value in (params or {}).items() if name not in run.param_names}
        new_tags = {name: value for name, value in (tags or {}).items() if run.tags.get(name) != value}
        calls = _calls(
            rows, [Param(*item) for item in new_params.items()], [RunTag(*item) for item in new_tags.items()]
        )
        with _translated():
            for some_rows, some_params, some_tags in calls:
                self._client.log_batch(run.run_id, some_rows, some_params, some_tags)
        run.param_names.update(map(sys.intern, new_params))
        run.tags.update(new_tags)

    def log_inputs(self, run: MlflowRun, inputs: Sequence[DatasetInput]) -> None:
        """Name the datasets that a run uses, those that are not there yet."""
        from mlflow import entities

        new = [used for used in inputs if (used.name, used.digest) not in run.inputs]
        if not new:
            return
        notes = [
            entities.DatasetInput(
                entities.Dataset(used.name, used.digest, "local", used.source, used.schema, used.profile),
                [entities.InputTag("mlflow.data.context", used.context)],
            )
            for used in new
        ]
        with _translated():
            self._client.log_inputs(run.run_id, notes)
        run.inputs.update((used.name, used.digest) for used in new)

    def set_status(self, run: MlflowRun, status: str, end_ms: int | None) -> None:
        """MLflow's RUNNING, FINISHED, FAILED or KILLED, where it is not that already."""
        if run.status == status:
            return
        with _translated():
            if status == "RUNNING":
                self._client.update_run(run.run_id, status)
            else:
                self._client.set_terminated(run.run_id, status, end_ms)
        run.status = status

    def delete(self, run: MlflowRun) -> None:
        """Into MLflow's trash, from where a person can restore it."""
        with _translated():
            self._client.delete_run(run.run_id)

    def retire(self, run: MlflowRun) -> None:
        """Into the trash, as no longer of the sweep. The tag goes first: MLflow tags nothing that is in the trash."""
        self.log(run, tags={TAG_MEMBER: "false"})
        self.delete(run)

    def restore(self, run: MlflowRun) -> None:
        """Undo `retire`."""
        with _translated():
            self._client.restore_run(run.run_id)
        self.log(run, tags={TAG_MEMBER: "true"})

    def log_artifacts(self, run: MlflowRun, folder: Path) -> None:
        with _translated():
            self._client.log_artifacts(run.run_id, str(folder))

    def _search(self, filter_string: str, *, view_type: int = ACTIVE_ONLY) -> Iterator[MlflowRun]:
        token: str | None = None
        while True:
            with _translated():
                page = self._client.search_runs(
                    [self.experiment_id],
                    filter_string,
                    view_type,
                    max_results=RUNS_A_PAGE,
                    order_by=["start_time"],
                    page_token=token,
                )
            for run in page:
                data = run.data
                yield MlflowRun(
                    run_id=run.info.run_id,
                    tags={sys.intern(name): value for name, value in data.tags.items()},
                    param_names=set(map(sys.intern, data.params)),
                    status=str(run.info.status),
                    inputs={(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs},
                )
            token = page.token
            if not token:
                return


def _create_sqlite_store(path: Path, artifacts_uri: str) -> None:
    """Make an empty store under a private name and link it in whole.

    MLflow runs some sixty migrations, and a process that dies among them would leave a file that no MLflow opens again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    private = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        SqlAlchemyStore(sqlite_uri(private), artifacts_uri).engine.dispose()
        os.link(private, path)
    except FileExistsError:  # another process was first, and its store is as good
        pass
    finally:
        private.unlink(missing_ok=True)


def _mirrored_bytes(run: MlflowRun) -> int:
    return Cursor.parse(run.tags.get(TAG_CURSOR)).journal_bytes


def _calls(rows: list[Any], params: list[Any], tags: list[Any]) -> Iterator[tuple[list[Any], list[Any], list[Any]]]:
    """What goes into each log_batch call: params and metrics as they fit, tags in calls that leave no metric for later."""
    while rows or params or tags:
        some_params, params = params[:PARAMS_A_CALL], params[PARAMS_A_CALL:]
        room = ITEMS_A_CALL - len(some_params)
        some_rows, rows = rows[:room], rows[room:]
        room = 0 if rows or params else min(TAGS_A_CALL, room - len(some_rows))
        some_tags, tags = tags[:room], tags[room:]
        yield some_rows, some_params, some_tags


@contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever MLflow and what lies beneath it raise into a TrackingError."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # requests, SQLAlchemy, urllib3 and MLflow raise what they like
        raise TrackingError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """The telling part of a failure's text, on one line."""
    text = masked(" ".join(str(error).split())) or type(error).__name__
    cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    if cause:
        return cause[1].strip().lower()
    if "timed out" in text or "timeout" in text.lower():
        return "timed out"
    return text[:300]
