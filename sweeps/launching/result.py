"""What a launch came to: how the sweep's folders stand, what was trained and how fast, in words and in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cluster.states import Summary
from llama.errors import UserError
from llama.records import Record, RunStatus
from llama.sweep_index import SweepRun
from sweeps.control import read_control
from sweeps.hardware.calibration import TrainedShape
from sweeps.launching.standing import Standing
from sweeps.planning.prepare import Prepared
from sweeps.words import count, duration

#: A launch shorter than this is mostly the start of its processes: its throughput says little of the machine.
SHORT_SECONDS = 60.0
_ENDED = (RunStatus.FINISHED, RunStatus.DIVERGED)


class LaunchResult(Record):
    """What one launch did."""

    sweep: str
    finished: int
    """Runs of the sweep that are finished now, trunks not counted."""
    diverged: list[str]
    failed: dict[str, str]
    """Why, by run name, blocked ones included."""
    cancelled: list[str]
    """Runs that somebody cancelled before they were finished, and branches of cancelled trunks."""
    left: list[str]
    """Runs that were resumed too late for this launch: it was past its training."""
    trained_tokens: int
    """By this launch."""
    training_seconds: float
    """With at least one segment at work."""
    tokens_per_second: float | None
    """Summed over runs side by side; None when nothing was trained."""
    solo_share: float | None
    """`tokens_per_second` as a share of what as many runs would do if each had the machine for itself, by the calibrated solo
    speeds; None without a calibration of every shape."""
    mirror_trouble: str | None

    @property
    def throughput(self) -> str:
        """What the training phase did with its cores, in words."""
        if self.tokens_per_second is None:
            return "nothing was trained"
        said = (
            f"trained {self.trained_tokens:,} tokens in {duration(self.training_seconds)}: "
            f"{self.tokens_per_second:,.0f} tokens a second over all runs"
        )
        if self.solo_share is None or self.training_seconds < SHORT_SECONDS:
            return said
        return f"{said}, {self.solo_share:.0%} of what as many runs would do alone on this machine"

    @property
    def summary(self) -> str:
        """How the sweep stands, in words."""
        lines = [f"{self.sweep}: {count(self.finished, 'run')} finished"]
        lines += [f"diverged, and out of the fit: {name}" for name in self.diverged]
        lines += [f"not run: {name}: {reason}" for name, reason in self.failed.items()]
        if self.cancelled:
            lines.append(f"cancelled: {', '.join(self.cancelled)} (isoloss resume puts them back)")
        if self.left:
            lines.append(f"not run, resumed after the training: {', '.join(self.left)} (launch again to run them)")
        lines += [self.mirror_trouble] if self.mirror_trouble else []
        return "\n".join(lines)


def count_result(
    prepared: Prepared, standing: Standing, summary: Summary | None, *, mirror_trouble: str | None = None
) -> LaunchResult:
    """Count what stands in the folders, and what this launch trained; `summary` is None where it trained nothing."""
    runs = [run.record for run in prepared.design.runs]
    failed = _failed(prepared, standing, summary)
    diverged = [run.name for run in runs if standing.status(run.key) is RunStatus.DIVERGED]
    tokens, solo_seconds = 0, 0.0
    configs = {segment.id: segment.config for segment in prepared.design.segments}
    for id, value in (summary.done if summary is not None else {}).items():
        tokens += value["trained_tokens"]
        speed = prepared.calibration.speed(TrainedShape.of(configs[id]))
        solo_seconds += value["trained_tokens"] / speed.tokens_per_second if speed is not None else float("nan")
    seconds = summary.running_seconds if summary is not None else 0.0
    share = solo_seconds / (seconds * prepared.plan.slots) if seconds and tokens else float("nan")
    finals = [run for run in runs if not run.is_trunk]
    unfinished = [run for run in finals if standing.status(run.key) not in _ENDED and run.name not in failed]
    cancelled = _cancelled(prepared, unfinished)
    return LaunchResult(
        sweep=prepared.spec.name,
        finished=sum(standing.status(run.key) is RunStatus.FINISHED for run in finals),
        diverged=diverged,
        failed={name: reason for name, reason in failed.items() if name not in diverged},
        cancelled=cancelled,
        left=[run.name for run in unfinished if run.name not in cancelled],
        trained_tokens=tokens,
        training_seconds=seconds,
        tokens_per_second=tokens / seconds if tokens else None,
        solo_share=share if math.isfinite(share) else None,
        mirror_trouble=mirror_trouble,
    )


def _failed(prepared: Prepared, standing: Standing, summary: Summary | None) -> dict[str, str]:
    """Why, by run name. What hangs on a cancelled trunk is cancelled with it, and no failure."""
    names = prepared.names
    keys = {segment.id: segment.run_key for segment in prepared.design.segments}
    reasons = standing.doomed()
    if summary is not None:
        reasons |= {id: f"{failure.kind.value}: {failure.message}" for id, failure in summary.failed.items()}
        for id, cause in summary.blocked.items():
            if cause in summary.failed:
                reasons.setdefault(id, f"needs {names[keys[cause]]}, which failed ({reasons[cause]})")
    return {names[keys[id]]: reason for id, reason in reasons.items()}


def _cancelled(prepared: Prepared, unfinished: Sequence[SweepRun]) -> list[str]:
    """Names of those that somebody cancelled, or their trunk."""
    try:
        control = read_control(prepared.storage.sweep(prepared.spec.name))
    except UserError:  # the launch has told of it, and what it did is to be told too
        return []
    return [run.name for run in unfinished if control.cancels(run.key) or control.cancels(run.trunk or "")]
