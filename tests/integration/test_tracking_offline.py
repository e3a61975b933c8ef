"""A cluster without a network: everything trains, and MLflow is filled later, elsewhere, from a copy of the storage."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from llama.metric_names import PROCESS_MEMORY_MEGABYTES
from tests.integration.conftest import Launcher, read_index
from tests.sweeps.tracking.reading import assert_mirrors

OF_THE_PLACE = ("mlflow.parentRunId", "mlflow.note.content", "checkpoint.uri")
"""Tags that name ids of the store, or the folder that was mirrored."""


def content(database: Path) -> dict[str, Any]:
    """All that MLflow shows of a sweep, by the names of its runs."""
    queries = {
        "runs": "select status, start_time, end_time from runs where run_uuid = ? and name != 'tiny'",
        "params": "select key, value from params where run_uuid = ? order by key",
        "tags": f"select key, value from tags where run_uuid = ? and key not in {OF_THE_PLACE} order by key",
        "metrics": "select key, value, timestamp, step from metrics where run_uuid = ? order by key, step, timestamp",
        "datasets": """
            select datasets.name, digest, dataset_schema, dataset_profile, input_tags.value
            from inputs join datasets on source_id = dataset_uuid join input_tags using (input_uuid)
            where destination_id = ? order by datasets.name
        """,
    }
    with sqlite3.connect(database) as connection:
        listed = connection.execute("select run_uuid, name from runs where lifecycle_stage = 'active'").fetchall()
        return {
            name: {part: connection.execute(query, (run,)).fetchall() for part, query in queries.items()}
            for run, name in listed
        }


@pytest.mark.slow  # launches and copies; shorter ones of syncing stand in tests/sweeps/tracking
@pytest.mark.parametrize("uri", ["off", "http://127.0.0.1:9"])
def test_what_trained_without_mlflow_is_mirrored_elsewhere_as_if_it_had_been_there(
    launcher: Launcher, tmp_path: Path, uri: str
) -> None:
    result = launcher.launch("--tracking-uri", uri)
    assert (result["finished"], result["failed"]) == (6, {})
    assert "isoloss sync tiny" in result["mirror_trouble"]
    assert not (launcher.storage / "mlflow.db").exists()
    copy = tmp_path / "elsewhere" / "copied storage"
    shutil.copytree(launcher.storage, copy)
    here, there = tmp_path / "here.db", tmp_path / "there.db"
    assert launcher.run("sync", "tiny", "--tracking-uri", f"sqlite:///{here}").returncode == 0
    shutil.move(launcher.storage, tmp_path / "gone")  # the copy needs nothing of it
    for _ in range(2):
        synced = launcher.run("sync", "tiny", "--tracking-uri", f"sqlite:///{there}", storage=copy)
        assert synced.returncode == 0, synced.stderr
    mirrored = content(there)
    assert mirrored == content(here)
    assert sorted(mirrored) == sorted(["tiny", *(run.name for run in read_index(copy).runs)])
    assert all([context for *_, context in run["datasets"]] == ["training", "validation"] for run in mirrored.values())
    sampled = {row[0] for run in mirrored.values() for row in run["metrics"]}
    assert PROCESS_MEMORY_MEGABYTES in sampled
    assert_mirrors(there, copy, read_index(copy))
