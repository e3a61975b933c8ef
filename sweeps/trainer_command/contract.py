"""What a command is told and what it must leave behind: names, and the checks of what it wrote.

The command works in `<run>/trainer/`, which stays between attempts. Its journal and DONE become the run's own only after
they were checked, so that nothing wrong is ever taken for a finished run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from llama.config import RunConfig
from llama.errors import UserError
from llama.metric_names import TRAIN_LOSS, VAL_LOSS
from llama.records import DONE, JOURNAL, JournalPoint, Record, journal_line

TRAINER_FOLDER = "trainer"
ALIVE = "alive"

# The command's environment, beside the worker's own.
CONFIG_VARIABLE = "ISOLOSS_CONFIG"
CORPUS_VARIABLE = "ISOLOSS_CORPUS"
FOLDER_VARIABLE = "ISOLOSS_FOLDER"
THREADS_VARIABLE = "ISOLOSS_THREADS"
GPU_SHARE_VARIABLE = "ISOLOSS_GPU_SHARE"
ATTEMPT_VARIABLE = "ISOLOSS_ATTEMPT"


class TrainerResult(Record):
    """The command's DONE, as JSON."""

    outcome: Literal["finished", "diverged"]
    reason: str | None = None
    """Why it diverged."""
    step: int
    tokens: int
    metrics: dict[str, float | None]
    """`val/loss` above all, in nats a token; others by their names in `llama.metric_names`."""
    training_seconds: float
    """In training steps, over all attempts that counted."""


def read_result(folder: Path, config: RunConfig) -> TrainerResult | None:
    """The command's DONE, checked; None where it wrote none.

    Raises:
        UserError: the file holds no result, or not that of the run that was asked for.
    """
    path = folder / DONE
    try:
        result = TrainerResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {problem}" for problem in _problems(error))) from None
    assert config.steps is not None  # a command's run has a length
    if result.outcome == "diverged":
        _require(bool(result.reason), path, "reason", result.reason, "why it diverged, in words,")
        _require(
            0 <= result.step <= config.steps, path, "step", result.step, f"a step up to the run's {config.steps:,}"
        )
        asked = result.step * config.batch_tokens
        _require(result.tokens == asked, path, "tokens", result.tokens, f"{asked:,}, of {result.step:,} steps,")
        return result
    _require(result.step == config.steps, path, "step", result.step, f"the run's {config.steps:,}")
    _require(result.tokens == config.tokens, path, "tokens", result.tokens, f"the run's {config.tokens:,}")
    loss = result.metrics.get(VAL_LOSS)
    right = "a finite loss in nats a token, or outcome diverged with its reason,"
    _require(loss is not None and math.isfinite(loss) and loss > 0, path, f"metrics.{VAL_LOSS}", loss, right)
    seconds = result.training_seconds
    _require(math.isfinite(seconds) and seconds > 0, path, "training_seconds", seconds, "a number above 0")
    return result


def check_journal(folder: Path, config: RunConfig, result: TrainerResult) -> str:
    """The command's journal as it will stand in the run's folder.

    Raises:
        UserError: a line is no journal point, or they are not those of the run.
    """
    path = folder / JOURNAL
    data = path.read_bytes() if path.exists() else b""
    last_step, has_loss, lines = 0, False, []
    for number, line in enumerate(data.splitlines(), start=1):
        point = _point(line, f"{path} line {number}")
        where = Path(f"{path} line {number}")
        right = f"a step above the {last_step:,} before it, up to {result.step:,},"
        _require(last_step < point.step <= result.step, where, "step", point.step, right)
        asked = point.step * config.batch_tokens
        _require(point.tokens == asked, where, "tokens", point.tokens, f"{asked:,}, of {point.step:,} steps,")
        lines.append(journal_line(point))
        last_step, has_loss = point.step, has_loss or point.metrics.get(TRAIN_LOSS) is not None
    if result.outcome == "finished" and not has_loss:
        raise UserError(f"{path}: no line has metrics.{TRAIN_LOSS}; the training loss at some steps is right")
    return "".join(lines)


def latest_point(folder: Path) -> JournalPoint | None:
    """The journal's last whole line, for watchers: None where there is none or it is no point yet."""
    try:
        with open(folder / JOURNAL, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 10_000))
            lines = file.read().split(b"\n")[:-1]
        return JournalPoint.model_validate_json(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None


def _point(line: bytes, where: str) -> JournalPoint:
    try:
        value: Any = json.loads(line)
        if not isinstance(value, Mapping):
            raise ValueError("a JSON object was expected")
        return JournalPoint.model_validate(value)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {problem}" for problem in _problems(error))) from None
    except ValueError as error:
        raise UserError(f"{where}: not a journal point: {error}") from None


def _problems(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: found {problem['input']!r:.80}; {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]


def _require(is_right: bool, path: Path, field: str, found: object, right: str) -> None:
    if not is_right:
        raise UserError(f"{path}: {field}: found {'nothing' if found is None else found}; {right} is right")
