"""How far a build is, for those who watch it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPORT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A stage of a build, `done` of its `parts` finished."""

    stage: str
    done: int
    parts: int
    share: float
    """Of the stage's work that is done, by bytes."""
    bytes: int
    """UTF-8 bytes of text done, those included that an earlier process had done."""
    fresh_bytes: int
    """Less those."""
    seconds: float
    """Since the stage began."""

    @property
    def is_over(self) -> bool:
        return self.done == self.parts

    @property
    def megabytes_per_second(self) -> float:
        """Of text, what an earlier process had done left out."""
        return self.fresh_bytes / 1e6 / max(self.seconds, 1e-9)

    @property
    def remaining_seconds(self) -> float | None:
        return self.seconds * (1 - self.share) / self.share if self.share > 0 else None


Watch = Callable[[Progress], None]


def in_lines(report: Callable[[str], None]) -> Watch:
    """Watch by a line now and then, and one at the end of each stage."""
    reported = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal reported
        if progress.is_over or time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            report(line(progress))

    return watch


def line(progress: Progress) -> str:
    """One line that says it all."""
    parts = f"{progress.done} of {progress.parts} parts, " if not progress.is_over else ""
    reused_bytes = progress.bytes - progress.fresh_bytes
    rate = f" ({progress.megabytes_per_second:,.1f} MB/s)" if progress.fresh_bytes else ""
    reused = f", {reused_bytes / 1e6:,.1f} MB of it done before" if reused_bytes else ""
    return f"{progress.stage}: {parts}{progress.bytes / 1e6:,.1f} MB in {progress.seconds:.1f} s{rate}{reused}"


class Stage:
    """Counts a stage's finished parts, and tells who watches from its start on."""

    def __init__(self, name: str, watch: Watch, weights: Sequence[int]) -> None:
        """`weights` are the parts' bytes, as far as they are known before."""
        self._name = name
        self._watch = watch
        self._weights = weights
        self._started = time.monotonic()
        self._done = self._done_weight = self._bytes = self._fresh_bytes = 0
        watch(self._progress())

    def finished(self, place: int, size_bytes: int, *, reused: bool = False) -> None:
        """The part at `place` is finished: so many bytes of text."""
        self._done += 1
        self._done_weight += self._weights[place]
        self._bytes += size_bytes
        self._fresh_bytes += 0 if reused else size_bytes
        self._watch(self._progress())

    def _progress(self) -> Progress:
        return Progress(
            stage=self._name,
            done=self._done,
            parts=len(self._weights),
            share=self._done_weight / max(1, sum(self._weights)),
            bytes=self._bytes,
            fresh_bytes=self._fresh_bytes,
            seconds=time.monotonic() - self._started,
        )
