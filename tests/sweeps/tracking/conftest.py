from collections.abc import Callable
from pathlib import Path

import pytest

from llama.sweep_index import SweepIndex
from sweeps.tracking.claim import Claim
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import Store
from sweeps.tracking.uri import sqlite_uri

OpenReplay = Callable[[Path, SweepIndex], Replay]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MLflow SQLite file after its migrations, which take a second: tests start from copies."""
    storage = tmp_path_factory.mktemp("template")
    index = SweepIndex(sweep="template", sweep_id="template", corpus_folder="c", spec_folder=".", runs=[])
    Store(sqlite_uri(storage / "mlflow.db"), storage=storage, index=index, mirror_id="template")
    return (storage / "mlflow.db").read_bytes()


@pytest.fixture
def database(tmp_path: Path, empty_database: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh store at the storage's default place; MLflow refuses its own writes where it believes itself under test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database)
    return path


@pytest.fixture
def open_replay(database: Path) -> OpenReplay:
    """A Replay as a new process would open it."""

    def open_(storage: Path, index: SweepIndex) -> Replay:
        with Claim(storage, index.sweep) as mirror_id:
            return Replay(
                storage, index, Store(sqlite_uri(database), storage=storage, index=index, mirror_id=mirror_id)
            )

    return open_
