"""What an MLflow store holds of an experiment, in bulk: a database by a few queries over all runs, a server page by page.

A database answers for 10,000 runs in seconds, where MLflow's client takes 2 s a thousand. A server is asked for 1,000 runs a
page, and for a metric's history 100 runs a request and at most 2,500 points a run, evenly sampled: for K metrics of n runs
that is K n/100 requests, `REQUESTS_AT_ONCE` at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.results import Array
from analysis.runs.mlflow_uri import is_database, masked, sqlite_path
from llama.errors import UserError

RUNS_A_PAGE = 1000
#: MLflow's limits for one request of histories (`mlflow.server.handlers`, 3.17).
RUNS_A_REQUEST = 100
POINTS_A_RUN = 2500
HISTORIES = "/api/2.0/mlflow/metrics/get-history-bulk-interval"
REQUESTS_AT_ONCE = 4
ROWS_AT_ONCE = 50_000
#: MLflow reads these from the environment only; where a person has set one, that holds. By default it tries a server that is
#: away for four minutes.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: MLflow stores an infinity as the largest double.
CLIPPED = 1.79e308


class StoredRun(NamedTuple):
    """One run; a metric's value is its last."""

    id: str
    status: str
    """MLflow's own: FINISHED, FAILED, KILLED, RUNNING, SCHEDULED."""
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class History(NamedTuple):
    """Points of one metric over many runs, by run and then by step; of points at one step the last logged."""

    run_G: NDArray[np.int64]
    """Index into the runs that were asked for."""
    step_G: NDArray[np.int64]
    value_G: Array


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment that exists."""

    uri: str
    name: str
    id: str
    client: Any
    """mlflow.tracking.MlflowClient."""

    @property
    def is_database(self) -> bool:
        return is_database(self.uri)


def open_experiment(tracking_uri: str, name: str) -> Experiment:
    """Raises UserError where the store can't be read or has no such experiment."""
    _require_store(tracking_uri)
    for setting, value in SETTINGS.items():
        os.environ.setdefault(setting, value)
    with _readable(tracking_uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri)
        about = client.get_experiment_by_name(name)
        if about is None:
            known = ", ".join(repr(each.name) for each in client.search_experiments(max_results=20))
            raise UserError(f"{masked(tracking_uri)} has no experiment {name!r}; it has {known}")
        return Experiment(uri=tracking_uri, name=name, id=str(about.experiment_id), client=client)


def read_stored_runs(experiment: Experiment) -> list[StoredRun]:
    """Every run that is not in the trash, newest first."""
    with _readable(experiment.uri):
        return _query_runs(experiment) if experiment.is_database else search_runs(experiment)


def search_runs(experiment: Experiment) -> list[StoredRun]:
    """`read_stored_runs` through MLflow's client, which any kind of store answers."""
    runs: list[StoredRun] = []
    token: str | None = None
    while True:
        page = experiment.client.search_runs([experiment.id], max_results=RUNS_A_PAGE, page_token=token)
        for run in page:
            data = run.data
            runs.append(StoredRun(run.info.run_id, run.info.status, data.params, data.metrics, data.tags))
        token = page.token
        if not token:
            return runs


def read_history(experiment: Experiment, key: str, runs: Sequence[StoredRun]) -> History:
    """The history of one metric over these runs of the experiment. Values that are no finite number are left out."""
    numbers = {run.id: number for number, run in enumerate(runs) if key in run.metrics}
    with _readable(experiment.uri):
        if experiment.is_database:
            batches = _query_history(experiment, key)
        else:
            batches = _request_history(experiment, key, list(numbers))
        parts = [_points(batch, numbers) for batch in batches]
    run_G, step_G, time_G, value_G = np.concatenate([np.empty((4, 0)), *parts], axis=1)
    order = np.lexsort((time_G, step_G, run_G))
    order = order[np.abs(value_G[order]) < CLIPPED]
    run_G, step_G, value_G = run_G[order].astype(np.int64), step_G[order].astype(np.int64), value_G[order]
    last_G = np.ones(len(order), dtype=bool)
    last_G[:-1] = (np.diff(run_G) != 0) | (np.diff(step_G) != 0)
    return History(run_G[last_G], step_G[last_G], value_G[last_G])


def _points(batch: Sequence[tuple[str, int, int, float]], numbers: dict[str, int]) -> Array:
    """`[4, points]`: run, step, time and value, each exact as a double (steps and milliseconds are below 2^53)."""
    rows = [(numbers[run_id], *rest) for run_id, *rest in batch if run_id in numbers]
    return np.array(rows, dtype=np.float64).reshape(-1, 4).T


def _query_runs(experiment: Experiment) -> list[StoredRun]:
    from mlflow.store.tracking.dbmodels import models
    from sqlalchemy import select

    ours = _ours(experiment)
    with _connection(experiment) as connection:
        # The order of MLflow's own search.
        newest = (models.SqlRun.start_time.desc(), models.SqlRun.run_uuid)
        found = connection.execute(select(models.SqlRun.run_uuid, models.SqlRun.status).where(ours).order_by(*newest))
        runs = {run_id: StoredRun(run_id, status, {}, {}, {}) for run_id, status in found}
        for part, table in (("params", models.SqlParam), ("tags", models.SqlTag)):
            texts = select(table.run_uuid, table.key, table.value).join(models.SqlRun).where(ours)
            for run_id, key, value in connection.execute(texts):
                if run_id in runs:  # a run that began between the queries waits for the next reading
                    getattr(runs[run_id], part)[sys.intern(key)] = value
        latest = models.SqlLatestMetric
        numbers = select(latest.run_uuid, latest.key, latest.value, latest.is_nan).join(models.SqlRun).where(ours)
        for run_id, key, value, is_nan in connection.execute(numbers):
            if run_id in runs:
                runs[run_id].metrics[sys.intern(key)] = float("nan") if is_nan else value
    return list(runs.values())


def _query_history(experiment: Experiment, key: str) -> Iterator[Sequence[Any]]:
    from mlflow.store.tracking.dbmodels.models import SqlMetric, SqlRun
    from sqlalchemy import select

    columns = (SqlMetric.run_uuid, SqlMetric.step, SqlMetric.timestamp, SqlMetric.value)
    query = select(*columns).join(SqlRun).where(_ours(experiment), SqlMetric.key == key, ~SqlMetric.is_nan)
    with _connection(experiment) as connection:
        yield from connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query).partitions()


def _ours(experiment: Experiment) -> Any:
    from mlflow.store.tracking.dbmodels.models import SqlRun
    from sqlalchemy import and_

    return and_(SqlRun.experiment_id == int(experiment.id), SqlRun.lifecycle_stage == "active")


@contextmanager
def _connection(experiment: Experiment) -> Iterator[Any]:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(experiment.uri)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _request_history(experiment: Experiment, key: str, run_ids: list[str]) -> Iterator[Sequence[Any]]:
    from concurrent.futures import ThreadPoolExecutor

    groups = [run_ids[i : i + RUNS_A_REQUEST] for i in range(0, len(run_ids), RUNS_A_REQUEST)]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        yield from pool.map(lambda group: _request_group(experiment, key, group), groups)


def _request_group(experiment: Experiment, key: str, run_ids: list[str]) -> list[Any]:
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    params = {"run_ids": run_ids, "metric_key": key, "max_results": POINTS_A_RUN}
    credentials = experiment.client._tracking_client.store.get_host_creds()
    response = http_request(credentials, HISTORIES, "GET", params=params)
    points = verify_rest_response(response, HISTORIES).json().get("metrics", [])
    rows = [(p["run_id"], int(p.get("step", 0)), int(p.get("timestamp", 0)), float(p["value"])) for p in points]
    return [row for row in rows if row[3] == row[3]]


def _require_store(uri: str) -> None:
    """MLflow would make the SQLite file that isn't there, a reader must not."""
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise UserError(f"{uri} can't be read: there is no file {path}")


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{masked(uri)} can't be read: {masked(first)}") from None
