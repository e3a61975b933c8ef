"""From run folders to MLflow in the foreground: the whole sweep, and its report on the parent run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llama.errors import UserError
from llama.records import SweepIndex
from sweeps.tracking.claim import Claim, Claimed
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import Store
from sweeps.tracking.uri import check_tracking, masked


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What `sync` did."""

    tracking_uri: str
    """Without credentials."""
    experiment_id: str
    runs: int
    """Runs in the sweep, trunks included."""
    points: int
    """Metric values sent; 0 when MLflow had them all."""
    behind: tuple[str, ...]
    """Names of runs that could not be brought up to date."""
    troubles: Mapping[str, str]
    """Why not, by run name."""


def sync(storage: Path, index: SweepIndex, tracking_uri: str, *, report_folder: Path | None = None) -> SyncReport:
    """Make MLflow equal to the run folders, from whatever it holds now; `report_folder` goes to the parent's artifacts.

    Raises:
        UserError: the URI can't work, or another process mirrors this sweep now.
        TrackingError: MLflow is not reached or refuses.
    """
    with _opened(storage, index, tracking_uri) as store:
        replay = Replay(storage, index, store)
        replay.advance(live=False)
        replay.mark_parent(live=False)
        if report_folder is not None:
            store.log_artifacts(replay.parent, report_folder)
        return SyncReport(
            tracking_uri=masked(tracking_uri),
            experiment_id=store.experiment_id,
            runs=len(index.runs),
            points=replay.points,
            behind=tuple(replay.behind),
            troubles=dict(replay.troubles),
        )


def log_parent_artifacts(
    storage: Path,
    index: SweepIndex,
    tracking_uri: str,
    folder: Path,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Put a report's files (HTML, PNG, SVG, CSV) and its numbers on the sweep's parent run; files of one name are replaced.

    Raises:
        UserError, TrackingError: as `sync` does.
    """
    now_ms = int(time.time() * 1000)
    with _opened(storage, index, tracking_uri) as store:
        parent = store.open_parent(index)
        rows = [(name, value, now_ms, 0) for name, value in (metrics or {}).items()]
        store.log(parent, metrics=rows, tags=dict(tags or {}))
        store.log_artifacts(parent, folder)


@contextmanager
def _opened(storage: Path, index: SweepIndex, tracking_uri: str) -> Iterator[Store]:
    check_tracking(tracking_uri)
    try:
        with Claim(storage, index.sweep) as mirror_id:
            yield Store(tracking_uri, storage=storage, index=index, mirror_id=mirror_id)
    except Claimed as error:
        raise UserError(f"{error}; MLflow will be complete when that has ended") from None
