"""What MLflow's SQLite file holds, read without MLflow, and what the run folders say it should hold."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from llama.metric_names import FLOPS, GPU_SHARE, TRAINING_SECONDS, TRAINING_THREADS
from llama.records import read_done, read_journal
from llama.sweep_index import SweepIndex

Row = tuple[str, float, int, int]
"""(name, value, unix_ms, step)"""


def mirrored_rows(database: Path) -> dict[str, Counter[Row]]:
    """Metric rows by run.key, of active runs, each with how often it is there."""
    query = """
        select tags.value, metrics.key, metrics.value, metrics.timestamp, metrics.step
        from metrics join runs using (run_uuid) join tags using (run_uuid)
        where tags.key = 'run.key' and runs.lifecycle_stage = 'active'
    """
    rows: dict[str, Counter[Row]] = {}
    with sqlite3.connect(database) as connection:
        for key, *row in connection.execute(query):
            rows.setdefault(key, Counter())[tuple(row)] += 1
    return rows


def mirrored_runs(database: Path) -> dict[str, list[dict[str, Any]]]:
    """Tags of every active run by run.key (the parent's under ""), with `status`, `run_uuid`, `start` and `end` added."""
    runs: dict[str, list[dict[str, Any]]] = {}
    with sqlite3.connect(database) as connection:
        listed = connection.execute(
            "select run_uuid, name, status, start_time, end_time, experiment_id from runs where lifecycle_stage = 'active'"
        )
        for run_uuid, name, status, start, end, experiment in listed.fetchall():
            tags = dict(connection.execute("select key, value from tags where run_uuid = ?", (run_uuid,)))
            facts = {"name": name, "status": status, "start": start, "end": end, "experiment": str(experiment)}
            runs.setdefault(tags.get("run.key", ""), []).append({**tags, **facts, "run_uuid": run_uuid})
    return runs


def mirrored_params(database: Path, run_uuid: str) -> dict[str, str]:
    with sqlite3.connect(database) as connection:
        return dict(connection.execute("select key, value from params where run_uuid = ?", (run_uuid,)))


def journal_rows(storage: Path, key: str, *, until_bytes: int | None = None) -> Counter[Row]:
    """The rows that a run's journal stands for, through llama's own reader."""
    rows: Counter[Row] = Counter()
    for point in read_journal(storage / "runs" / key, until_bytes=until_bytes):
        for name, value in point.metrics.items():
            if value is not None and math.isfinite(value):
                rows[name, value, point.unix_ms, point.tokens] += 1
    return rows


def assert_mirrors(database: Path, storage: Path, index: SweepIndex) -> None:
    """MLflow has every journal point of every run exactly once, one run a key, and else only DONE's and inference numbers."""
    mirrored = mirrored_rows(database)
    runs = mirrored_runs(database)
    assert sorted(runs) == sorted(["", *(run.key for run in index.runs)])
    assert all(len(same) == 1 for same in runs.values()), "a key has two MLflow runs, or the sweep two parents"
    for run in index.runs:
        expected = journal_rows(storage, run.key)
        assert expected <= mirrored[run.key], f"{run.name} lacks points"
        extra = mirrored[run.key] - expected
        done = read_done(storage / "runs" / run.key)
        ended: dict[str, float | None] = {}
        if done is not None:
            account = {
                TRAINING_SECONDS: done.training_seconds,
                TRAINING_THREADS: done.threads,
                GPU_SHARE: done.gpu_share,
            }
            ended = {**done.metrics, FLOPS: done.flops, **account}
        for (name, value, _, step), count in extra.items():
            final = done is not None and (ended.get(name), done.tokens) == (value, step)
            assert count == 1, f"{run.name} has {name} at {step} {count} times over"
            assert final or name.startswith("inference/"), f"{run.name} has {name} = {value} at {step} from no journal"
