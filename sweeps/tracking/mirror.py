"""The background uploader of a launch: MLflow follows the run folders, and training never waits for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from llama.errors import UserError
from llama.sweep_index import SweepIndex
from sweeps.tracking.claim import Claim, Claimed
from sweeps.tracking.code import code_tags
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import Store, TrackingError
from sweeps.tracking.uri import masked

POLL_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class MirrorReport:
    """What a launch's mirroring came to."""

    points: int
    """Metric values sent."""
    behind: tuple[str, ...]
    """Names of runs that MLflow does not show in full."""
    trouble: str | None
    """One line that says why and what to do; None when MLflow has everything."""


class Mirror:
    """One daemon thread that replays a sweep's run folders to MLflow every few seconds.

    It raises nothing into the launcher: a server that is away is tried again, ever more seldom, and `stop` tells how it ended.
    """

    def __init__(self, storage: Path, index: SweepIndex, tracking_uri: str, *, poll_seconds: float = POLL_SECONDS):
        self._storage, self._index, self._tracking_uri = storage, index, tracking_uri
        self._poll_seconds = poll_seconds
        self._claim = Claim(storage, index.sweep)
        self._stopping, self._give_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self._replay: Replay | None = None
        self._points = 0
        self._behind = [run.name for run in index.runs]
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """What keeps MLflow from following just now, for a live view; None when all is well."""
        return self._trouble

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 30.0) -> MirrorReport:
        """Send what is left, for at most `timeout_seconds`, and say how far MLflow came."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        trouble = self._trouble
        if self._thread.is_alive():
            self._give_up.set()
            trouble = trouble or f"not done after {timeout_seconds:.0f} s"
        if trouble is not None:
            trouble = (
                f"MLflow at {masked(self._tracking_uri)} lacks {len(self._behind)} of {len(self._index.runs)} runs: {trouble}. "
                f"The run folders have everything: run `isoloss sync {self._index.sweep}` later"
            )
        return MirrorReport(points=self._points, behind=tuple(self._behind), trouble=trouble)

    def _run(self) -> None:
        """Pass after pass until stopped, then a last one in which runs that have not ended are marked KILLED."""
        wait = 0.0
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(wait)
            try:
                self._pass(live=not stopping)
                wait = self._poll_seconds
            except (TrackingError, UserError, Claimed) as error:
                self._fall_back(str(error))
                wait = min(2 * max(wait, self._poll_seconds), LONGEST_WAIT_SECONDS)
            except Exception as error:  # the launcher goes on, whatever is wrong here
                self._fall_back(f"{type(error).__name__}: {masked(str(error))}")
                wait = LONGEST_WAIT_SECONDS
        self._claim.release()

    def _pass(self, *, live: bool) -> None:
        if self._replay is None:
            mirror_id = self._claim.acquire()
            store = Store(self._tracking_uri, storage=self._storage, index=self._index, mirror_id=mirror_id)
            self._replay = Replay(self._storage, self._index, store, new_run_tags=code_tags())
        sent_before = self._replay.points
        try:
            self._replay.advance(live=live, give_up=self._give_up)
            self._replay.mark_parent(live=live)
            if not live:
                self._replay.retire_strangers()
        finally:
            self._points += self._replay.points - sent_before
            self._behind = self._replay.behind
        self._trouble = next((f"{name}: {why}" for name, why in self._replay.troubles.items()), None)

    def _fall_back(self, trouble: str) -> None:
        """Start afresh next time: after a lost answer only a new search tells what MLflow has."""
        self._replay = None
        self._trouble = trouble
