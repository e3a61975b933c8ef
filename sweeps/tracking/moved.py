"""Where a sweep's MLflow artifacts lie, and how a SQLite store learns that the storage was moved.

MLflow writes an experiment's artifact folder into its database as an absolute URI. After `mv A B` it would make A again and
write there, so that the places of this storage's own experiments are rewritten. No MLflow here: it has no call for it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from llama.records import read_record
from sweeps.tracking.claim import IDENTITY, Identity
from sweeps.tracking.names import TAG_MIRROR_ID

ARTIFACTS = "mlflow-artifacts"

PLACES = """
    select experiment_id, artifact_location from experiments join experiment_tags using (experiment_id)
    where experiment_tags.key = ? and experiment_tags.value = ?
"""
MOVE_EXPERIMENT = "update experiments set artifact_location = :new where experiment_id = :experiment"
MOVE_RUNS = """
    update runs set artifact_uri = :new || substr(artifact_uri, length(:old) + 1)
    where experiment_id = :experiment and substr(artifact_uri, 1, length(:old) + 1) = :old || '/'
"""


def artifact_place(storage: Path, sweep: str = "") -> str:
    """URI of the folder in the storage that holds the artifacts, of one sweep where it is named."""
    return (storage.absolute() / ARTIFACTS / sweep).as_uri()


def mend_artifact_places(database: Path, storage: Path) -> None:
    """Point every experiment that mirrors a sweep of this storage, and its runs, at the storage's own artifact folder.

    Raises:
        sqlite3.Error: the file is no MLflow store, or is locked.
        UserError: a sweep's mirror.json is damaged.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        for path in sorted((storage / "sweeps").glob(f"*/{IDENTITY}")):
            identity = read_record(path, Identity)
            if identity is None:
                continue
            new = artifact_place(storage, path.parent.name)
            for experiment, old in connection.execute(PLACES, (TAG_MIRROR_ID, identity.mirror_id)).fetchall():
                if old != new:
                    places = {"experiment": experiment, "old": old, "new": new}
                    connection.execute(MOVE_EXPERIMENT, places)
                    connection.execute(MOVE_RUNS, places)
