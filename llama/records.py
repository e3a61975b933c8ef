"""The run folder's contract: names of files, typed rows, readers. No torch.

    <storage>/runs/<key>/
        config.json      the RunConfig, written once
        lease/           who may write here (llama.lease)
        heartbeat.json   the live attempt's latest step, for watchers; never needed to resume
        metrics.jsonl    the journal, flushed at each checkpoint and truncated to the checkpoint on resume
        checkpoints/     step-00000400/{model,optimizer}.safetensors, COMPLETE
        inference.json   measured inference cost of this shape
        failure.json     why the latest attempt failed, if it did
        attempts.jsonl   when each attempt began and ended, by the launcher (sweeps.attempts); nothing depends on it
        DONE             written last: how the run ended, with its final numbers

A run's status is derived from these files and stored nowhere else. A trunk has no DONE unless it diverged: it is as long as
its checkpoints.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llama.atomic_files import write_atomically
from llama.config import Config, Positive, RunConfig
from llama.errors import UserError

CONFIG = "config.json"
HEARTBEAT = "heartbeat.json"
JOURNAL = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
INFERENCE = "inference.json"
FAILURE = "failure.json"
DONE = "DONE"
COMPLETE = "COMPLETE"

R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """Base of the rows that run folders hold. Unknown fields are an error: a foreign file is not a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JournalPoint(Record):
    """One line of `metrics.jsonl`. A non-finite value is written as null and read as NaN."""

    step: int
    tokens: int
    unix_ms: int
    metrics: dict[str, float | None]


class Heartbeat(Record):
    """What the live attempt is doing, rewritten about once a second."""

    attempt: int
    step: int
    until_step: int
    tokens: int
    loss: float | None
    tokens_per_second: float | None
    unix_ms: int


class Done(Record):
    """How a run ended."""

    outcome: Literal["finished", "diverged"]
    reason: str | None
    """Why it diverged; None when it finished."""
    step: int
    tokens: int
    flops: float
    """Training FLOPs over all steps since step 0, a branch's trunk included."""
    metrics: dict[str, float | None]
    """Final validation metrics, and what the run drew from its corpus."""
    training_seconds: float
    """Seconds spent in this run's own training steps, over all attempts that counted."""
    threads: int = 1
    """Cores that the run had."""
    gpu_share: float = 0.0
    """GPUs that the run had: a share of one, or several; 0 on a CPU."""
    device: str | None = None
    """The CPU's or GPU's model, as `llama.device` calls it; None in runs from before it was noted."""


class CheckpointMark(Record):
    """`COMPLETE` of a checkpoint, written after everything that it vouches for."""

    step: int
    tokens: int
    journal_bytes: int
    """Length of the journal at this step: what a resume keeps, and what mirrors may show."""
    journal_sha256: str | None = None
    """Of that much of the journal; None where an older version made the checkpoint."""
    training_seconds: float
    kept: bool
    """False where the next checkpoint replaces it; a segment's end is kept, since branches fork there."""
    sha256: dict[str, str]
    """By file name in the checkpoint's folder."""


class Failure(Record):
    """Why the latest attempt stopped before the segment's end."""

    attempt: int
    kind: str
    message: str
    unix_ms: int
    final: bool = True
    """Whether its launcher gives up; else another attempt follows while it lives."""


class Quantiles(Record):
    """A repeated timing: median with its 5th and 95th percentile."""

    median: float
    p5: float
    p95: float


class InferencePoint(Record):
    """Serving cost of one shape at one batch size. Names as in vLLM: TPOT = (latency - TTFT) / (output tokens - 1)."""

    batch: int
    ttft_seconds: Quantiles
    tpot_seconds: Quantiles
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


class InferenceProtocol(Config):
    """How the serving cost of a shape is measured."""

    max_batch: Positive = 64
    """Batches double from 1 up to this, or to where tokens a second stop growing."""
    prompt_tokens: Positive = 64
    output_tokens: Annotated[int, Field(ge=2)] = 64
    repetitions: Annotated[int, Field(ge=5)] = 5
    """Timed ones; two warm-ups come before them, in which the saturating batch is found."""


class InferenceCost(Record):
    """Measured inference cost of one model shape on one device."""

    device: str
    threads: int
    dtype: str
    prompt_tokens: int
    output_tokens: int
    repetitions: int
    weight_bytes: int
    kv_bytes_per_token: int
    points: list[InferencePoint]
    """By batch size, ascending, up to the batch where tokens a second stop growing."""

    @property
    def saturated(self) -> InferencePoint:
        """The point with the most decoded tokens a second."""
        return max(self.points, key=lambda point: point.decode_tokens_per_second)


class RunStatus(StrEnum):
    """Derived from a run folder by `read_status`."""

    ABSENT = "absent"
    STARTED = "started"
    FAILED = "failed"
    DIVERGED = "diverged"
    FINISHED = "finished"


def now_ms() -> int:
    """Unix time in milliseconds, as records have it."""
    return int(time.time() * 1000)


def write_record(path: Path, record: BaseModel, *, durable: bool = True) -> None:
    write_atomically(path, record.model_dump_json(indent=1) + "\n", durable=durable)


def read_record(path: Path, kind: type[R]) -> R | None:
    """The record in `path`, or None where there is no such file.

    Raises:
        UserError: the file is there but does not hold such a record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise UserError(f"{path} does not hold a {kind.__name__} ({_first_problem(error)})") from None


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return ".".join(map(str, first["loc"])) + (": " if first["loc"] else "") + first["msg"]


def read_config(folder: Path) -> RunConfig | None:
    return read_record(folder / CONFIG, RunConfig)


def claim(folder: Path, config: RunConfig) -> None:
    """Make an empty folder the run's. Raise UserError where it is another run's."""
    stored = read_config(folder)
    if stored is None:
        write_record(folder / CONFIG, config)
    elif stored != config:
        raise UserError(f"{folder / CONFIG} is another run's: its key is {stored.key}, not {config.key}")


def read_done(folder: Path) -> Done | None:
    return read_record(folder / DONE, Done)


def read_inference(folder: Path) -> InferenceCost | None:
    return read_record(folder / INFERENCE, InferenceCost)


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / CHECKPOINTS / f"step-{step:08d}"


def read_checkpoint_mark(folder: Path, step: int) -> CheckpointMark | None:
    """The mark of the checkpoint at `step`; None where it is absent, unfinished or damaged. Contents are verified on load."""
    try:
        return read_record(checkpoint_folder(folder, step) / COMPLETE, CheckpointMark)
    except UserError:
        return None


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """The latest heartbeat; None where there is none or it was cut short, since nothing depends on it."""
    try:
        return read_record(folder / HEARTBEAT, Heartbeat)
    except UserError:
        return None


def complete_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(
        int(mark.parent.name.removeprefix("step-")) for mark in folder.glob(f"{CHECKPOINTS}/step-*/{COMPLETE}")
    )


def read_status(folder: Path) -> RunStatus:
    """What the files say of a run, cheapest evidence first."""
    done = read_done(folder)
    if done is not None:
        return RunStatus.FINISHED if done.outcome == "finished" else RunStatus.DIVERGED
    if (folder / FAILURE).exists():
        return RunStatus.FAILED
    return RunStatus.STARTED if (folder / CONFIG).exists() else RunStatus.ABSENT


def journal_line(point: JournalPoint) -> str:
    metrics = {
        name: value if value is not None and math.isfinite(value) else None for name, value in point.metrics.items()
    }
    record = {"step": point.step, "tokens": point.tokens, "unix_ms": point.unix_ms, "metrics": metrics}
    return json.dumps(record, separators=(",", ":")) + "\n"


def read_journal(folder: Path, *, until_bytes: int | None = None) -> Iterator[JournalPoint]:
    """The journal's points in order. A last line cut short by a crash is left out; it is rewritten on resume.

    Raises:
        UserError: a line before the last is not a journal point.
    """
    path = folder / JOURNAL
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    if until_bytes is not None:
        data = data[:until_bytes]
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            raw: dict[str, Any] = json.loads(line)
            yield JournalPoint(**raw)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} line {number} is not a journal point: {error}") from None
