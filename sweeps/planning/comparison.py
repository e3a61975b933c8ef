"""After a sweep: what its plan foretold beside what its run folders hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from llama.accounting import training_flops_per_token
from llama.config import RunConfig
from llama.errors import UserError
from llama.metric_names import GPU_MEMORY_MEGABYTES, PROCESS_MEMORY_MEGABYTES
from llama.records import (
    Record,
    complete_steps,
    read_checkpoint_mark,
    read_config,
    read_done,
    read_journal,
)
from sweeps.attempts import read_attempts
from sweeps.planning.prepare import Prepared
from sweeps.planning.records import SizePlan
from sweeps.planning.stored_plan import read_plan
from sweeps.storage import SweepFolder


class SizeComparison(Record):
    """One size: foretold and real. Seconds are of training steps, a trunk's once."""

    size: str
    runs: int
    finished_runs: int
    tokens_predicted: int
    tokens_real: int
    flops_predicted: float
    flops_real: float
    seconds_predicted: float | None
    """For the tokens that were trained; None where no speed was known then."""
    seconds_real: float | None
    """None before anything was trained."""
    seconds_ratio: float | None
    """Real over foretold."""
    tokens_per_second_predicted: float | None
    tokens_per_second_real: float | None
    tokens_per_second_today: float | None
    """As a plan would say now."""
    memory_bytes_predicted: int
    memory_bytes_real: int | None
    """The most that a run's process was seen to hold, or its GPU where no other run shares it; None where nobody looked."""


class PlanComparison(Record):
    """A sweep's first plan against what happened."""

    sweep: str
    planned_unix_ms: int
    planned_after_runs: int
    """Runs of the sweep that were finished when it was planned."""
    place: str
    runs: int
    finished_runs: int
    wall_seconds_predicted: float | None
    wall_seconds_real: float | None
    """In which anything ran, start-up, validation and checkpoints included; None where launchers noted no attempts."""
    wall_seconds_today: float | None
    seconds_predicted: float | None
    seconds_real: float
    flops_predicted: float
    flops_real: float
    sizes: list[SizeComparison]


class _Trained(NamedTuple):
    """What one run folder holds."""

    is_finished: bool
    tokens: int
    """In its own steps."""
    seconds: float
    memory_bytes: int | None


def compare_plan(prepared: Prepared, sweep: SweepFolder) -> PlanComparison:
    """Hold the plan of the sweep's first launch against its run folders, and beside both the plan of today.

    Raises:
        UserError: no plan of the sweep as it stands was kept.
    """
    stored = read_plan(sweep.storage, sweep.index.sweep, sweep.index.sweep_id)
    if stored is None:
        raise UserError(
            f"--compare: no plan of sweep {sweep.index.sweep!r} as it stands was kept; the first launch keeps one"
        )
    memory_metric = PROCESS_MEMORY_MEGABYTES if stored.plan.cost is None else GPU_MEMORY_MEGABYTES
    real: dict[str, list[_Trained]] = defaultdict(list)
    labels = {model: size for size, model in prepared.design.models.items()}
    for run in sweep.index.runs:
        folder = sweep.storage.run(run.key)
        config = read_config(folder)
        if config is not None and config.model in labels:
            real[labels[config.model]].append(_trained(folder, config, memory_metric))
    today = {size.size: size for size in prepared.plan.sizes}
    flops = {size: float(training_flops_per_token(model)) for size, model in prepared.design.models.items()}
    sizes = [
        _compare_size(plan, real[plan.size], flops[plan.size], today.get(plan.size))
        for plan in stored.plan.sizes
        if plan.size in flops
    ]
    predicted = [size.seconds_predicted for size in sizes]
    return PlanComparison(
        sweep=stored.plan.sweep,
        planned_unix_ms=stored.unix_ms,
        planned_after_runs=stored.finished_runs,
        place=stored.plan.place,
        runs=stored.plan.runs,
        finished_runs=sum(size.finished_runs for size in sizes),
        wall_seconds_predicted=stored.plan.wall_seconds,
        wall_seconds_real=_wall_seconds(sweep.storage.run(run.key) for run in sweep.index.runs),
        wall_seconds_today=prepared.plan.wall_seconds,
        seconds_predicted=sum(one for one in predicted if one is not None) if None not in predicted else None,
        seconds_real=sum(size.seconds_real or 0.0 for size in sizes),
        flops_predicted=stored.plan.flops,
        flops_real=sum(size.flops_real for size in sizes),
        sizes=sizes,
    )


def _compare_size(
    plan: SizePlan, real: list[_Trained], flops_per_token: float, today: SizePlan | None
) -> SizeComparison:
    tokens, seconds = sum(one.tokens for one in real), sum(one.seconds for one in real)
    predicted = None
    if plan.device_seconds is not None and plan.trained_tokens:
        predicted = plan.device_seconds * tokens / plan.trained_tokens
    is_shared = plan.runs_a_gpu is not None and plan.runs_a_gpu > 1
    memory = [one.memory_bytes for one in real if one.memory_bytes is not None and not is_shared]
    return SizeComparison(
        size=plan.size,
        runs=plan.runs,
        finished_runs=sum(one.is_finished for one in real),
        tokens_predicted=plan.trained_tokens,
        tokens_real=tokens,
        flops_predicted=plan.flops,
        flops_real=tokens * flops_per_token,
        seconds_predicted=predicted,
        seconds_real=seconds or None,
        seconds_ratio=seconds / predicted if predicted and seconds else None,
        tokens_per_second_predicted=plan.tokens_per_second,
        tokens_per_second_real=tokens / seconds if seconds else None,
        tokens_per_second_today=today.tokens_per_second if today is not None else None,
        memory_bytes_predicted=plan.memory_bytes,
        memory_bytes_real=max(memory, default=None),
    )


def _trained(folder: Path, config: RunConfig, memory_metric: str) -> _Trained:
    """By DONE, or by the newest checkpoint of a trunk or of a run on its way."""
    done = read_done(folder)
    mark = read_checkpoint_mark(folder, max(complete_steps(folder), default=0)) if done is None else None
    ended = done or mark
    if ended is None:
        return _Trained(False, 0, 0.0, None)
    memory = [value for point in read_journal(folder) if (value := point.metrics.get(memory_metric)) is not None]
    is_finished = done is not None and done.outcome == "finished"
    seen = round(max(memory) * 1e6) if memory else None
    return _Trained(is_finished, config.own_tokens(ended.step), ended.training_seconds, seen)


def _wall_seconds(folders: Iterable[Path]) -> float | None:
    """Length of the union of all attempts' times."""
    spans = sorted((one.began_unix_ms, one.ended_unix_ms) for folder in folders for one in read_attempts(folder))
    if not spans:
        return None
    total, until = 0, spans[0][0]
    for begin, end in spans:
        total += max(0, end - max(begin, until))
        until = max(until, end)
    return total / 1000
