"""The background uploader of a launch: MLflow follows the run folders, and training never waits for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from analysis.runs.mlflow_uri import masked
from llama.errors import UserError
from llama.sweep_index import SweepIndex
from sweeps.tracking.claim import Claim, Claimed
from sweeps.tracking.code import code_tags
from sweeps.tracking.complete import is_complete
from sweeps.tracking.journal_reader import JournalReader
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import Store, TrackingError
from sweeps.tracking.uri import OFF

POLL_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 60.0
#: At the end of a launch: how often a server that fails is asked again, and how long after.
LAST_TRIES = 3
LAST_WAIT_SECONDS = 2.0


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
        self._next_index = index
        self._poll_seconds = poll_seconds
        self._claim = Claim(storage, index.sweep)
        self._stopping, self._give_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self._replay: Replay | None = None
        self._has_failed = False
        """Whether MLflow ever left something unconfirmed, which it may still carry out."""
        self._readers: dict[str, JournalReader] = {}
        self._points = 0
        self._behind = [run.name for run in index.runs]
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """What keeps MLflow from following just now, for a live view; None when all is well."""
        return self._trouble

    @property
    def is_off(self) -> bool:
        """Whether there is no MLflow to follow."""
        return self._tracking_uri == OFF

    def start(self) -> None:
        if not self.is_off:
            self._thread.start()

    def follow(self, index: SweepIndex) -> None:
        """Mirror this index from the next pass on: a tuning study's runs are not known at its start."""
        self._next_index = index

    def stop(self, timeout_seconds: float = 30.0) -> MirrorReport:
        """Send what is left, for at most `timeout_seconds`, and say how far MLflow came."""
        later = f"The run folders have everything: run `isoloss sync {self._index.sweep}` later"
        if self.is_off:
            off = f"MLflow was off. {later}, here or beside a copy of the storage, with --tracking-uri"
            return MirrorReport(points=0, behind=tuple(self._behind), trouble=off)
        self._stopping.set()
        self._thread.join(timeout_seconds)
        replay, trouble = self._replay, self._trouble
        behind = self._behind if replay is None else replay.behind
        if self._thread.is_alive():
            self._give_up.set()
            trouble = trouble or f"not done after {timeout_seconds:.0f} s"
        if trouble is not None:
            trouble = (
                f"MLflow at {masked(self._tracking_uri)} lacks {len(behind)} of {len(self._index.runs)} runs: {trouble}. "
                f"{later}"
            )
        return MirrorReport(points=self._points, behind=tuple(behind), trouble=trouble)

    def _run(self) -> None:
        """Pass after pass until stopped; then the last ones, in which runs that have not ended are marked KILLED.

        They start with a new search. A request that timed out, even one of an uploader that has died since, may have been
        carried out after this one's first search: it made a double, or put an old tag back.
        """
        wait, failures = 0.0, 0
        while not self._stopping.wait(wait):
            has_more = self._try_pass(live=True)
            failures = failures + 1 if self._replay is None else 0
            wait = 0.0 if has_more else min(self._poll_seconds * 2 ** min(failures, 10), LONGEST_WAIT_SECONDS)
        for _ in range(LAST_TRIES):
            self._replay = None
            while self._try_pass(live=False):
                pass
            if self._trouble is None or self._give_up.wait(LAST_WAIT_SECONDS):
                break
        self._claim.release()

    def _try_pass(self, *, live: bool) -> bool:
        """One pass; whether there is more to send at once. Where it fails, the trouble is noted and there is no Replay."""
        try:
            return self._pass(live=live)
        except (TrackingError, UserError, Claimed) as error:
            self._fall_back(str(error))
        except Exception as error:  # the launcher goes on, whatever is wrong here
            self._fall_back(f"{type(error).__name__}: {masked(str(error))}")
        return False

    def _pass(self, *, live: bool) -> bool:
        if self._index is not self._next_index:
            self._index, self._replay = self._next_index, None
        if self._replay is None:
            mirror_id = self._claim.acquire()
            if not self._has_failed and is_complete(self._tracking_uri, self._storage, self._index, mirror_id):
                self._behind, self._trouble = [], None
                return False
            store = Store(self._tracking_uri, storage=self._storage, index=self._index, mirror_id=mirror_id)
            tags = code_tags()
            self._replay = Replay(self._storage, self._index, store, new_run_tags=tags, readers=self._readers)
        replay = self._replay
        sent_before = replay.points
        try:
            is_all_sent = replay.advance(live=live, give_up=self._give_up)
            replay.mark_parent(live=live)
            if not live:
                replay.retire_strangers()
                if is_all_sent and not (self._has_failed or replay.troubles):
                    replay.vouch()
        finally:
            self._points += replay.points - sent_before
            self._behind = replay.behind
            self._has_failed = self._has_failed or bool(replay.troubles)
        self._trouble = next((f"{name}: {why}" for name, why in replay.troubles.items()), None)
        return not is_all_sent

    def _fall_back(self, trouble: str) -> None:
        """Start afresh next time: after a lost answer only a new search tells what MLflow has."""
        self._replay, self._has_failed = None, True
        self._trouble = trouble
