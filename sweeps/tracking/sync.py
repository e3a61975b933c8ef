"""From run folders to MLflow in the foreground: the whole sweep, and its report on the parent run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analysis.runs.mlflow_uri import masked
from llama.errors import UserError
from llama.sweep_index import SweepIndex
from sweeps.tracking.claim import Claim, Claimed
from sweeps.tracking.names import TAG_ANSWER, TAG_REPORT
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import MlflowRun, Store
from sweeps.tracking.uri import require_tracking


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What was worked out from a sweep, as its parent run shows it."""

    folder: Path
    """Its files (HTML, PNG, SVG, CSV) become artifacts."""
    digest: str
    """Of all that it was made from."""
    unix_ms: int
    """When it was made: the metrics' time, so that sending them again changes nothing."""
    metrics: Mapping[str, float]
    headline: str


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What `sync` did."""

    tracking_uri: str
    """Without credentials."""
    runs: int
    """Runs in the sweep, trunks included."""
    points: int
    """Metric values sent; 0 when MLflow had them all."""
    retired: int
    """Runs that went to MLflow's trash because the sweep no longer lists them."""
    behind: tuple[str, ...]
    """Names of runs that could not be brought up to date."""
    troubles: Mapping[str, str]
    """Why not, by run name."""


def sync(storage: Path, index: SweepIndex, tracking_uri: str, *, report: StudyReport | None = None) -> SyncReport:
    """Make MLflow equal to the run folders, from whatever it holds now; `report` goes to the parent run.

    Raises:
        UserError: the URI can't work, or another process mirrors this sweep now.
        TrackingError: MLflow is not reached or refuses.
    """
    with _opened(storage, index, tracking_uri) as store:
        replay = Replay(storage, index, store)
        replay.advance(live=False)
        replay.mark_parent(live=False)
        retired = replay.retire_strangers()
        if not (replay.behind or replay.troubles):
            replay.vouch()
        if report is not None:
            _put(store, replay.parent, report)
        return SyncReport(
            tracking_uri=masked(tracking_uri),
            runs=len(index.runs),
            points=replay.points,
            retired=retired,
            behind=tuple(replay.behind),
            troubles=dict(replay.troubles),
        )


def log_report(storage: Path, index: SweepIndex, tracking_uri: str, report: StudyReport) -> bool:
    """Put a report on the sweep's parent run; False where MLflow has this one already.

    Raises:
        UserError, TrackingError: as `sync` does.
    """
    with _opened(storage, index, tracking_uri) as store:
        parent = store.open_parent(index)
        if parent.tags.get(TAG_REPORT) == report.digest:
            return False
        _put(store, parent, report)
        return True


def _put(store: Store, parent: MlflowRun, report: StudyReport) -> None:
    """Files of one name are replaced. The digest goes last: it vouches for the rest."""
    store.log_artifacts(parent, report.folder)
    store.log(parent, metrics=[(name, value, report.unix_ms, 0) for name, value in report.metrics.items()])
    store.log(parent, tags={TAG_ANSWER: report.headline[:1000]})
    store.log(parent, tags={TAG_REPORT: report.digest})


@contextmanager
def _opened(storage: Path, index: SweepIndex, tracking_uri: str) -> Iterator[Store]:
    require_tracking(tracking_uri)
    try:
        with Claim(storage, index.sweep) as mirror_id:
            yield Store(tracking_uri, storage=storage, index=index, mirror_id=mirror_id)
    except Claimed as error:
        raise UserError(f"{error}; MLflow will be complete when that has ended") from None
