"""Whether MLflow has all of a sweep, by what the last mirror left on the parent run (`Replay.vouch`), without MLflow.

A launch that finds nothing to do would otherwise spend most of its time on importing MLflow and searching a thousand runs to
find that nothing is missing. What a person did to MLflow's runs since is not undone so; `isoloss sync` always looks.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from analysis.runs.mlflow_uri import sqlite_path
from llama.sweep_index import SweepIndex
from sweeps.tracking.names import TAG_COMPLETE, TAG_MIRROR_ID
from sweeps.tracking.signatures import Signatures

_VOUCHED = """
    SELECT tags.value FROM tags
    JOIN runs USING (run_uuid)
    JOIN experiments USING (experiment_id)
    JOIN experiment_tags USING (experiment_id)
    WHERE tags.key = ? AND experiment_tags.key = ? AND experiment_tags.value = ?
    AND runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
"""


def is_complete(tracking_uri: str, storage: Path, index: SweepIndex, mirror_id: str) -> bool:
    """Whether a mirror left everything in this database, and no run folder has changed since. A server is never asked."""
    path = sqlite_path(tracking_uri)
    if path is None or not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
            vouched = database.execute(_VOUCHED, (TAG_COMPLETE, TAG_MIRROR_ID, mirror_id)).fetchall()
    except sqlite3.Error:
        return False
    signatures = Signatures(storage, index)
    return vouched == [(signatures.digest(signatures.all(live=False)),)]
