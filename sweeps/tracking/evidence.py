"""What a run's folder says at one moment, and the rows that MLflow should have of it. No MLflow here, only files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from llama.config import RunConfig
from llama.errors import UserError
from llama.metric_names import FLOPS, GPU_SHARE, TRAINING_SECONDS, TRAINING_THREADS
from llama.records import (
    CONFIG,
    DONE,
    FAILURE,
    INFERENCE,
    JOURNAL,
    CheckpointMark,
    Done,
    Failure,
    Heartbeat,
    InferenceCost,
    JournalPoint,
    complete_steps,
    read_checkpoint_mark,
    read_config,
    read_done,
    read_heartbeat,
    read_inference,
    read_record,
)
from sweeps.tracking.names import allowed, inference_metrics

Row = tuple[str, float, int, int]
"""(name, value, unix_ms, step) as MLflow takes a metric."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One reading of a run's folder."""

    config: RunConfig
    done: Done | None
    failure: Failure | None
    heartbeat: Heartbeat | None
    inference: InferenceCost | None
    mark: CheckpointMark | None
    """Of the latest complete checkpoint."""
    journal: bytes
    """Whole lines, those that may be shown and what follows them."""
    shown_bytes: int
    """How much of the journal may be shown: to the last complete checkpoint, or all of it once the run is done."""
    modified_ms: dict[str, int]
    """By file name, of the files that are there."""

    @property
    def start_ms(self) -> int:
        """When the config was written. A copied folder's files are younger, but its first point keeps its time."""
        written = self.modified_ms[CONFIG]
        return min(written, _point(self.journal.splitlines()[0]).unix_ms) if self.journal else written

    @property
    def end_ms(self) -> int:
        """The last point's time, which copies with the folder."""
        return _point(self.journal.splitlines()[-1]).unix_ms if self.journal else max(self.modified_ms.values())


def gather(folder: Path) -> Evidence | None:
    """Read a run's folder; None where no run has begun. The journal is read last: marks vouch for what was before them.

    Raises:
        UserError: a file does not hold what it should.
    """
    config = read_config(folder)
    if config is None:
        return None
    done = read_done(folder)
    steps = complete_steps(folder)
    mark = read_checkpoint_mark(folder, steps[-1]) if steps else None
    found = {name: stamp(folder / name) for name in (CONFIG, DONE, INFERENCE, FAILURE)}
    try:
        journal = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        journal = b""
    journal = journal[: journal.rfind(b"\n") + 1]
    vouched_bytes = mark.journal_bytes if mark is not None else 0
    return Evidence(
        config=config,
        done=done,
        failure=read_record(folder / FAILURE, Failure),
        heartbeat=read_heartbeat(folder),
        inference=read_inference(folder),
        mark=mark,
        journal=journal,
        shown_bytes=len(journal) if done is not None else min(vouched_bytes, len(journal)),
        modified_ms={name: times[0] // 1_000_000 for name, times in found.items() if times is not None},
    )


def stamp(path: Path) -> tuple[int, int] | None:
    """(modified, in nanoseconds; bytes): differs when the file was replaced. None where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def journal_slabs(evidence: Evidence, start: int, most_rows: int) -> Iterator[tuple[list[Row], int]]:
    """Rows of the shown journal from byte `start`, about `most_rows` at a time, each slab with the byte where it ends."""
    rows: list[Row] = []
    cursor = start
    for line in evidence.journal[start : evidence.shown_bytes].splitlines(keepends=True):
        more = _rows(_point(line))
        if rows and len(rows) + len(more) > most_rows:
            yield rows, cursor
            rows = []
        rows += more
        cursor += len(line)
    if cursor > start:
        yield rows, cursor


def final_rows(evidence: Evidence) -> list[Row]:
    """What DONE adds to the journal's last points, under the last point's time: the same on every replay."""
    done = evidence.done
    if done is None:
        return []
    tail = takewhile(lambda point: point.tokens == done.tokens, map(_point, reversed(evidence.journal.splitlines())))
    told = {name for point in tail for name in point.metrics}
    values = {
        **done.metrics,
        FLOPS: done.flops,
        TRAINING_SECONDS: done.training_seconds,
        TRAINING_THREADS: float(done.threads),
        GPU_SHARE: done.gpu_share,
    }
    new = {name: value for name, value in values.items() if name not in told}
    return _rows(JournalPoint(step=done.step, tokens=done.tokens, unix_ms=evidence.end_ms, metrics=new))


def inference_rows(evidence: Evidence) -> list[Row]:
    """The measured serving cost, under the time when it was written."""
    if evidence.inference is None:
        return []
    rows = [
        (name, value, evidence.modified_ms[INFERENCE], step)
        for name, value, step in inference_metrics(evidence.inference)
    ]
    return [row for row in rows if math.isfinite(row[1])]


def short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _point(line: bytes) -> JournalPoint:
    try:
        return JournalPoint.model_validate_json(line)
    except ValueError as error:
        raise UserError(f"{JOURNAL} holds a line that is not a journal point: {error}") from None


def _rows(point: JournalPoint) -> list[Row]:
    """One row a finite value. MLflow's step is the tokens seen, so that its charts are loss against tokens."""
    return [
        (allowed(name), value, point.unix_ms, point.tokens)
        for name, value in point.metrics.items()
        if value is not None and math.isfinite(value)
    ]
