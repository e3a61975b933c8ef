"""How a sweep's run folders stand: every DONE read once, and what is missing or can't be run by them."""

from __future__ import annotations

from pathlib import Path

from llama.records import Done, RunStatus, read_checkpoint_mark, read_done, read_status
from sweeps.designs.segments import Segment, missing_segments
from sweeps.planning.prepare import Prepared
from sweeps.storage import Storage


class Standing:
    """The folders at one time: reading thousands of them again for each question would take seconds."""

    def __init__(self, prepared: Prepared) -> None:
        self._storage, self._segments, self._names = prepared.storage, prepared.design.segments, prepared.names
        self._done = {key: read_done(self._storage.run(key)) for key in self._names}

    def status(self, key: str) -> RunStatus:
        """Of one of the sweep's runs."""
        done = self._done[key]
        if done is not None:
            return RunStatus.FINISHED if done.outcome == "finished" else RunStatus.DIVERGED
        return read_status(self._storage.run(key))

    def missing(self) -> list[Segment]:
        """The segments to run. What hangs on a diverged trunk, after its divergence, will not be run."""
        missing = missing_segments(
            self._segments,
            lambda segment: _is_done(segment, self._done[segment.run_key], self._storage.run(segment.run_key)),
        )
        doomed = self.doomed()
        return [segment for segment in missing if segment.id not in doomed]

    def doomed(self) -> dict[str, str]:
        """Why a segment can't be run, by its id: its trunk diverged before it."""
        reasons: dict[str, str] = {}
        for segment in self._segments:
            done = self._done[segment.run_key] if segment.config.is_trunk else None
            if done is not None and segment.end_step >= done.step:
                reasons[segment.id] = f"trunk {self._names[segment.run_key]} diverged: {done.reason}"
            elif inherited := [reasons[need] for need in segment.needs if need in reasons]:
                reasons[segment.id] = inherited[0]
        return reasons


def segment_is_done(storage: Storage, segment: Segment) -> bool:
    """Whether the segment's result exists now: DONE for one that ends a run, else a complete checkpoint at its end."""
    folder = storage.run(segment.run_key)
    return _is_done(segment, read_done(folder) if segment.ends_run else None, folder)


def _is_done(segment: Segment, done: Done | None, folder: Path) -> bool:
    return done is not None if segment.ends_run else read_checkpoint_mark(folder, segment.end_step) is not None
