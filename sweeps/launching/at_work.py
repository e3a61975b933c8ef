"""Runs at work, by their folders: whether one still gives signs of life, how far it is safe, and why one failed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cluster.states import Event, State
from cluster.task import Failed, Task
from llama.lease import current_owner
from llama.records import FAILURE, Failure, RunStatus, complete_steps, now_ms, read_heartbeat, read_status, write_record
from sweeps.designs.segments import Segment
from sweeps.storage import Storage

#: A running segment that gave no sign of life for this long is taken for hung: far beyond any start-up or compilation.
HANG_SECONDS = 600.0


class AtWork:
    """What the supervisor has to be told of segments that train. Fed with its events."""

    def __init__(self, storage: Storage, segments: Mapping[str, Segment]) -> None:
        self._storage, self._segments = storage, segments
        self._running_since: dict[str, float] = {}

    def on_event(self, event: Event) -> None:
        """Take note of a start; leave the reason of a failure in the run's folder."""
        if event.state is State.RUNNING:
            self._running_since[event.task.id] = time.time()
        elif event.state in (State.RETRYING, State.FAILED) and isinstance(event.outcome, Failed):
            key, final = self._segments[event.task.id].run_key, event.state is State.FAILED
            record_failure(self._storage, key, event.attempt, event.outcome, final=final)

    def stalled(self, task: Task) -> bool:
        folder = self._storage.run(self._segments[task.id].run_key)
        if current_owner(folder) is None:
            return False  # not begun: on a shared cluster an attempt may wait for its turn
        beat = read_heartbeat(folder)
        sign = max(self._running_since[task.id], beat.unix_ms / 1000 if beat is not None else 0.0)
        return time.time() - sign > HANG_SECONDS

    def progress(self, task: Task) -> int:
        """The step of the newest complete checkpoint."""
        return max(complete_steps(self._storage.run(self._segments[task.id].run_key)), default=0)


def record_failure(storage: Storage, key: str, attempt: int, failed: Failed, *, final: bool) -> None:
    """Leave the reason in the run's folder, for `isoloss status`; a diverged run says it in DONE."""
    folder = storage.run(key)
    if folder.exists() and read_status(folder) is not RunStatus.DIVERGED:
        failure = Failure(
            attempt=attempt,
            kind=failed.kind.value,
            message=failed.message,
            unix_ms=now_ms(),
            final=final,
        )
        write_record(folder / FAILURE, failure)
