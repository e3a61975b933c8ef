"""What a run's folder says at one moment, and the rows that MLflow should have of it. No MLflow here, only files."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from llama.config import RunConfig
from llama.metric_names import FLOPS, GPU_SHARE, TRAINING_SECONDS, TRAINING_THREADS
from llama.records import (
    CHECKPOINTS,
    COMPLETE,
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
    read_checkpoint_mark,
    read_config,
    read_done,
    read_heartbeat,
    read_inference,
    read_record,
)
from sweeps.tracking.journal_reader import Row, end_points, point_rows
from sweeps.tracking.names import inference_metrics


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
    first: JournalPoint | None
    """Of the journal; None of an empty one."""
    last: list[JournalPoint]
    """Those of the journal's last token count."""
    shown_bytes: int
    """How much of the journal may be shown: to the last complete checkpoint, or all of it once the run is done."""
    modified_ms: dict[str, int]
    """By file name, of the files that are there."""

    @property
    def start_ms(self) -> int:
        """When the config was written. A copied folder's files are younger, but its first point keeps its time."""
        written = self.modified_ms[CONFIG]
        return min(written, self.first.unix_ms) if self.first is not None else written

    @property
    def end_ms(self) -> int:
        """The last point's time, which copies with the folder."""
        return self.last[-1].unix_ms if self.last else max(self.modified_ms.values())


def gather(folder: Path) -> Evidence | None:
    """Read a run's folder, but for its journal's middle; None where no run has begun. The journal comes last: marks vouch
    for what was before them.

    Raises:
        UserError: a file does not hold what it should.
    """
    config = read_config(folder)
    if config is None:
        return None
    done = read_done(folder)
    step = newest_complete_step(folder)
    mark = read_checkpoint_mark(folder, step) if step is not None else None
    found = {name: stamp(folder / name) for name in (CONFIG, DONE, INFERENCE, FAILURE)}
    first, last = end_points(folder / JOURNAL)
    journal = stamp(folder / JOURNAL)
    journal_bytes = 0 if journal is None else journal[1]
    vouched_bytes = mark.journal_bytes if mark is not None else 0
    return Evidence(
        config=config,
        done=done,
        failure=read_record(folder / FAILURE, Failure),
        heartbeat=read_heartbeat(folder),
        inference=read_inference(folder),
        mark=mark,
        first=first,
        last=last,
        shown_bytes=journal_bytes if done is not None else min(vouched_bytes, journal_bytes),
        modified_ms={name: times[0] // 1_000_000 for name, times in found.items() if times is not None},
    )


def newest_complete_step(folder: Path) -> int | None:
    """Step of the newest complete checkpoint; one listing and one stat, since it is asked of every unfinished run."""
    try:
        with os.scandir(folder / CHECKPOINTS) as entries:
            names = sorted((entry.name for entry in entries if entry.name.startswith("step-")), reverse=True)
    except FileNotFoundError:
        return None
    for name in names:
        if (folder / CHECKPOINTS / name / COMPLETE).exists():
            return int(name.removeprefix("step-"))
    return None


def stamp(path: Path) -> tuple[int, int] | None:
    """(modified, in nanoseconds; bytes): differs when the file was replaced. None where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def final_rows(evidence: Evidence) -> list[Row]:
    """What DONE adds to the journal's last points, under the last point's time: the same on every replay."""
    done = evidence.done
    if done is None:
        return []
    told = {name for point in evidence.last if point.tokens == done.tokens for name in point.metrics}
    values = {
        **done.metrics,
        FLOPS: done.flops,
        TRAINING_SECONDS: done.training_seconds,
        TRAINING_THREADS: float(done.threads),
        GPU_SHARE: done.gpu_share,
    }
    new = {name: value for name, value in values.items() if name not in told}
    return point_rows(JournalPoint(step=done.step, tokens=done.tokens, unix_ms=evidence.end_ms, metrics=new))


def inference_rows(evidence: Evidence) -> list[Row]:
    """The measured serving cost, under the time when it was written."""
    if evidence.inference is None:
        return []
    rows = [
        (name, value, evidence.modified_ms[INFERENCE], step)
        for name, value, step in inference_metrics(evidence.inference)
    ]
    return [row for row in rows if math.isfinite(row[1])]
