"""Training speeds from runs that have finished: what plans are calibrated with at no cost, once anything was trained."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from llama.config import CommandTrainer
from llama.errors import UserError
from llama.records import DONE, Done, read_config, read_done
from sweeps.hardware.calibration import Setup, SpeedPoint, TrainedShape
from sweeps.hardware.speeds import FinishedSpeeds
from sweeps.storage import Storage

#: The newest so many are read, so that a plan stays quick beside a large storage.
NEWEST_RUNS = 1000


def finished_speeds(
    storage: Storage, setup: Setup, *, gpu_share: float, trainer: CommandTrainer | None = None
) -> FinishedSpeeds:
    """Speeds of the runs in `storage`, of any sweep, that the same trainer (None: our own) made on the same device with the
    same share of it: tokens over seconds of each shape's own training steps, warm-up and compilation included, all its runs
    together.
    """
    tokens: defaultdict[TrainedShape, int] = defaultdict(int)
    seconds: defaultdict[TrainedShape, float] = defaultdict(float)
    runs = 0
    for folder in _newest_finished(storage):
        found = _speed(folder, setup, gpu_share, trainer)
        if found is not None:
            shape, own_tokens, own_seconds = found
            tokens[shape] += own_tokens
            seconds[shape] += own_seconds
            runs += 1
    points = [SpeedPoint(shape=shape, tokens_per_second=tokens[shape] / seconds[shape]) for shape in tokens]
    return FinishedSpeeds(points=tuple(points), runs=runs)


def _newest_finished(storage: Storage) -> list[Path]:
    ended = sorted(storage.runs.glob(f"*/{DONE}"), key=lambda done: done.stat().st_mtime, reverse=True)
    return [done.parent for done in ended[:NEWEST_RUNS]]


def _speed(
    folder: Path, setup: Setup, gpu_share: float, trainer: CommandTrainer | None
) -> tuple[TrainedShape, int, float] | None:
    """Shape, own tokens and own seconds; None for a run of another set-up. A folder that can't be read is no evidence."""
    try:
        done, config = read_done(folder), read_config(folder)
    except UserError:
        return None
    if done is None or config is None or done.outcome != "finished" or not _is_like(done, setup, gpu_share):
        return None
    if config.trainer != trainer:
        return None
    if (config.dtype, config.attention_kernel) != (setup.numerics.dtype, setup.numerics.attention_kernel):
        return None
    own_tokens = config.own_tokens(done.step)
    if own_tokens <= 0 or done.training_seconds <= 0:
        return None
    return TrainedShape.of(config), own_tokens, done.training_seconds


def _is_like(done: Done, setup: Setup, gpu_share: float) -> bool:
    return (done.device, done.threads, done.gpu_share) == (setup.machine.name, setup.threads, gpu_share)
