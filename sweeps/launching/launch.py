"""Launch a sweep: run what is missing through the supervisor, measure what serving costs, and mirror it all to MLflow.

Everything that exists is skipped, so the same command goes on after any interruption and does nothing the second time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cluster.executor import Executor
from cluster.mps import sharing_gpus
from cluster.session import open_session
from cluster.signals import signals_exit
from cluster.states import Event, State, Summary
from cluster.supervisor import Supervisor
from cluster.task import Failed, Task
from llama.errors import UserError
from llama.full_disk import naming_a_full_disk
from llama.lease import Lease, LeaseHeld, acquire, current_owner
from llama.records import (
    FAILURE,
    Failure,
    Record,
    RunStatus,
    complete_steps,
    read_checkpoint_mark,
    read_done,
    read_heartbeat,
    read_status,
    write_record,
)
from llama.sweep_index import SweepRun
from sweeps.attempts import AttemptLog
from sweeps.control import cancelled_segments, read_control
from sweeps.designs.segments import Segment, missing_segments
from sweeps.hardware.calibration import TrainedShape
from sweeps.hardware.machine import this_machine
from sweeps.hardware.place import Place, this_place
from sweeps.launching import worker
from sweeps.launching.damage import put_damaged_aside
from sweeps.launching.heeding import Heeding
from sweeps.launching.measuring import calibrate_shapes, measure_inference, share_serving_costs
from sweeps.planning.prepare import Prepared, gpu_share, prepare, run_resources
from sweeps.planning.stored_plan import keep_plan
from sweeps.storage import Storage, find_source, register_sweep
from sweeps.tracking import Mirror, check_tracking, default_tracking_uri
from sweeps.watching.live import LiveView
from sweeps.words import duration

#: A running segment that gave no sign of life for this long is taken for hung: far beyond any start-up or compilation.
HANG_SECONDS = 600.0
LAUNCHER_WAIT_SECONDS = 24 * 3600.0
#: How long the end of a launch waits for MLflow to have everything: an interrupted one less, since it will go on.
MIRROR_SECONDS = 60.0
#: A launch shorter than this is mostly the start of its processes: its throughput says little of the machine.
SHORT_SECONDS = 60.0
INTERRUPTED_MIRROR_SECONDS = 5.0

ENDED = (RunStatus.FINISHED, RunStatus.DIVERGED)

#: Without a measured speed, order segments as if every shape trained at this rate; only their order depends on it.
ORDERING_FLOPS_PER_SECOND = 3e10


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
    trained_tokens: int
    """By this launch."""
    training_wall_seconds: float
    """From the first segment's start to the last one's end."""
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
            f"trained {self.trained_tokens:,} tokens in {duration(self.training_wall_seconds)}: "
            f"{self.tokens_per_second:,.0f} tokens a second over all runs"
        )
        if self.solo_share is None or self.training_wall_seconds < SHORT_SECONDS:
            return said
        return f"{said}, {self.solo_share:.0%} of what as many runs would do alone on this machine"

    @property
    def summary(self) -> str:
        """How the sweep stands, in words."""
        lines = [f"{self.sweep}: {self.finished} runs finished"]
        lines += [f"diverged, and out of the fit: {name}" for name in self.diverged]
        lines += [f"not run: {name}: {reason}" for name, reason in self.failed.items()]
        if self.cancelled:
            lines.append(f"cancelled: {', '.join(self.cancelled)} (isoloss resume puts them back)")
        lines += [self.mirror_trouble] if self.mirror_trouble else []
        return "\n".join(lines)


def launch_sweep(
    argument: str,
    storage: Storage,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    calibrate: bool = False,
    wait: bool = False,
    remeasure: bool = False,
    say: Callable[[str], None],
) -> LaunchResult:
    """Run what is missing of SWEEP on a local Ray, or on the standing cluster at `address`.

    Raises:
        UserError: SWEEP, the storage, the address or the tracking URI is not usable, or another launcher is at work.
    """
    storage = find_source(argument, storage).storage
    storage.require_writable()
    uri = default_tracking_uri(storage.root, tracking_uri)
    warning = check_tracking(uri)
    if warning is not None:
        say(warning)
    with ExitStack() as stack:
        stack.enter_context(signals_exit())
        stack.enter_context(naming_a_full_disk(storage.root))
        executor = stack.enter_context(open_session(address=address)).executor if address is not None else None
        place = this_place() if executor is None else cluster_place(executor)
        prepared = prepare(argument, storage, place, say=say)
        if prepared.spec.tune is not None:
            raise UserError(f"{prepared.yaml_path} is a tuning study (it has a block tune): isoloss tune runs it")
        stack.enter_context(hold_sweep(storage, prepared.spec.name, wait=wait, say=say))
        register_sweep(storage, prepared.index, prepared.yaml_path)
        configs = {storage.run(run.record.key): run.config for run in prepared.design.runs}
        put_damaged_aside(configs, say=say)
        missing = _missing(prepared)
        if executor is None:  # while nothing may run, there is no need for a Ray
            _heeding(prepared, missing, say).wait_while_paused()
        cancelled = cancelled_segments(read_control(storage.sweep(prepared.spec.name)), missing)
        missing = [segment for segment in missing if segment.id not in cancelled]
        mirror = Mirror(storage.root, prepared.index, uri)
        if not missing and not remeasure and not share_serving_costs(prepared):
            mirror.start()
            return _result(prepared, None, mirror.stop().trouble)
        if executor is None:
            if place.gpus and gpu_share(prepared.design, prepared.calibration) < 1:
                stack.enter_context(sharing_gpus(say))
            session = stack.enter_context(open_session(cpus=place.cpus, gpus=place.gpus, preload=["llama.trainer"]))
            executor = session.executor
        if calibrate:
            prepared = calibrate_shapes(prepared, place, executor, say=say)
        keep_plan(storage, prepared.plan, finished_runs=_result(prepared, None, None).finished)
        mirror.start()
        patience_seconds = INTERRUPTED_MIRROR_SECONDS
        try:
            say(f"{len(missing)} segments to run, {prepared.plan.slots} at once{_expected(prepared)}")
            summary = _train(prepared, missing, executor, mirror, place, say=say)
            say(_result(prepared, summary, None).throughput)
            measure_inference(prepared, executor, place, again=remeasure, say=say)
            patience_seconds = MIRROR_SECONDS
        finally:
            say("bringing MLflow up to date")
            trouble = mirror.stop(patience_seconds).trouble
        return _result(prepared, summary, trouble)


def cluster_place(executor: Executor) -> Place:
    """What the nodes of a standing cluster have in all. Runs go to GPUs where there are any, whatever this machine has."""
    nodes = executor.capacity()
    gpus = sum(node.gpus for node in nodes)
    machine = this_machine()._replace(device="cuda" if gpus else "cpu")
    return Place(machine=machine, nodes=tuple(nodes))


def hold_sweep(storage: Storage, name: str, *, wait: bool, say: Callable[[str], None]) -> Lease:
    """The lease on launching this sweep."""
    try:
        return acquire(storage.sweep(name), attempt=1)
    except LeaseHeld as held:
        who = held.owner.name
        if not wait:
            raise UserError(
                f"sweep {name!r} is being launched by {who}: watch it with `isoloss status {name}`, "
                "or wait for it to end with --wait"
            ) from None
        say(f"waiting for {who}, which is launching this sweep")
        return acquire(storage.sweep(name), attempt=1, wait_seconds=LAUNCHER_WAIT_SECONDS)


def _missing(prepared: Prepared) -> list[Segment]:
    """The segments to run. What hangs on a diverged trunk, after its divergence, will not be run."""
    storage = prepared.storage
    missing = missing_segments(prepared.design.segments, lambda segment: segment_is_done(storage, segment))
    doomed = _doomed(prepared)
    return [segment for segment in missing if segment.id not in doomed]


def _doomed(prepared: Prepared) -> dict[str, str]:
    """Why a segment can't be run, by its id: its trunk diverged before it."""
    reasons: dict[str, str] = {}
    names = {run.record.key: run.record.name for run in prepared.design.runs}
    for segment in prepared.design.segments:
        done = read_done(prepared.storage.run(segment.run_key)) if segment.config.is_trunk else None
        if done is not None and segment.end_step >= done.step:
            reasons[segment.id] = f"trunk {names[segment.run_key]} diverged: {done.reason}"
        elif inherited := [reasons[need] for need in segment.needs if need in reasons]:
            reasons[segment.id] = inherited[0]
    return reasons


def segment_is_done(storage: Storage, segment: Segment) -> bool:
    """Whether the segment's result exists: DONE for one that ends a run, else a complete checkpoint at its end."""
    folder = storage.run(segment.run_key)
    if segment.ends_run:
        return read_done(folder) is not None
    return read_checkpoint_mark(folder, segment.end_step) is not None


def _train(
    prepared: Prepared,
    missing: list[Segment],
    executor: Executor,
    mirror: Mirror,
    place: Place,
    *,
    say: Callable[[str], None],
) -> Summary:
    segments = {segment.id: segment for segment in missing}
    names = {run.record.key: run.record.name for run in prepared.design.runs}
    storage = prepared.storage
    running_since: dict[str, float] = {}

    def stalled(task: Task) -> bool:
        folder = storage.run(segments[task.id].run_key)
        if current_owner(folder) is None:
            return False  # not begun: on a shared cluster an attempt may wait for its turn
        beat = read_heartbeat(folder)
        sign = max(running_since[task.id], beat.unix_ms / 1000 if beat is not None else 0.0)
        return time.time() - sign > HANG_SECONDS

    estimates = {segment.id: _estimated_seconds(prepared, segment) for segment in missing}
    view = LiveView(
        missing,
        names,
        estimates,
        storage.runs,
        storage.sweep(prepared.spec.name),
        trouble=lambda: mirror.trouble,
        say=say,
    )

    attempts = AttemptLog(storage, segments)

    def on_event(event: Event) -> None:
        attempts.on_event(event)
        if event.state is State.RUNNING:
            running_since[event.task.id] = time.time()
        if event.state in (State.RETRYING, State.FAILED) and isinstance(event.outcome, Failed):
            final = event.state is State.FAILED
            record_failure(storage, segments[event.task.id].run_key, event.attempt, event.outcome, final=final)
        view.on_event(event)

    tasks = [
        Task(
            id=segment.id,
            function=worker.train,
            arguments={
                "storage": str(storage.root),
                "config": segment.config.model_dump_json(),
                "corpus_folder": prepared.index.corpus_folder,
                "until_step": segment.end_step,
                "spec_folder": prepared.index.spec_folder,
                "threads": prepared.spec.resources.cpus,
                "gpu_share": gpu_share(prepared.design, prepared.calibration) if place.gpus else 0.0,
            },
            needs=frozenset(segment.needs) & segments.keys(),
            resources=run_resources(prepared.design, place, prepared.calibration),
            estimated_seconds=estimates[segment.id],
        )
        for segment in missing
    ]
    supervisor = Supervisor(
        tasks,
        executor,
        is_done=lambda task: segment_is_done(storage, segments[task.id]),
        stalled=stalled,
        progress=lambda task: max(complete_steps(storage.run(segments[task.id].run_key)), default=0),
        orders=_heeding(prepared, missing, view.announce).orders,
        on_event=on_event,
    )
    with view, attempts:
        return supervisor.run()


def _heeding(prepared: Prepared, missing: Sequence[Segment], say: Callable[[str], None]) -> Heeding:
    names = {run.record.key: run.record.name for run in prepared.design.runs}
    return Heeding(prepared.storage.sweep(prepared.spec.name), missing, names, say=say)


def record_failure(storage: Storage, key: str, attempt: int, failed: Failed, *, final: bool) -> None:
    """Leave the reason in the run's folder, for `isoloss status`; a diverged run says it in DONE."""
    folder = storage.run(key)
    if folder.exists() and read_status(folder) is not RunStatus.DIVERGED:
        failure = Failure(
            attempt=attempt,
            kind=failed.kind.value,
            message=failed.message,
            unix_ms=int(time.time() * 1000),
            final=final,
        )
        write_record(folder / FAILURE, failure)


def _expected(prepared: Prepared) -> str:
    """What the plan expects of the whole sweep, where every speed was measured."""
    seconds = prepared.plan.wall_seconds
    return "" if seconds is None else f"; the whole sweep takes about {duration(seconds)}"


def _estimated_seconds(prepared: Prepared, segment: Segment) -> float:
    return prepared.schedule.seconds.get(segment.id, segment.flops / ORDERING_FLOPS_PER_SECOND)


def _result(prepared: Prepared, summary: Summary | None, mirror_trouble: str | None) -> LaunchResult:
    """Count what stands in the folders now, and what this launch trained."""
    runs = [run.record for run in prepared.design.runs]
    statuses = {run.key: read_status(prepared.storage.run(run.key)) for run in runs}
    segments = {segment.id: segment for segment in prepared.design.segments}
    names = {run.record.key: run.record.name for run in prepared.design.runs}
    reasons = _doomed(prepared)
    if summary is not None:
        reasons |= {id: f"{failure.kind.value}: {failure.message}" for id, failure in summary.failed.items()}
        for id, cause in summary.blocked.items():
            if cause in summary.failed:  # what hangs on a cancelled trunk is cancelled with it
                reasons.setdefault(id, f"{names[segments[cause].run_key]} failed ({reasons[cause]})")
    failed = {names[segments[id].run_key]: reason for id, reason in reasons.items()}
    diverged = [run.name for run in runs if statuses[run.key] is RunStatus.DIVERGED]
    tokens, solo_seconds = 0, 0.0
    for id, value in (summary.done if summary is not None else {}).items():
        tokens += value["trained_tokens"]
        speed = prepared.calibration.speed(TrainedShape.of(segments[id].config))
        solo_seconds += value["trained_tokens"] / speed.tokens_per_second if speed is not None else float("nan")
    wall = summary.wall_seconds if summary is not None else 0.0
    share = solo_seconds / (wall * prepared.plan.slots) if wall and tokens else float("nan")
    finals = [run for run in runs if not run.is_trunk]
    return LaunchResult(
        sweep=prepared.spec.name,
        finished=sum(statuses[run.key] is RunStatus.FINISHED for run in finals),
        diverged=diverged,
        failed={name: reason for name, reason in failed.items() if name not in diverged},
        cancelled=_cancelled(prepared, [run for run in finals if statuses[run.key] not in ENDED]),
        trained_tokens=tokens,
        training_wall_seconds=wall,
        tokens_per_second=tokens / wall if tokens else None,
        solo_share=share if math.isfinite(share) else None,
        mirror_trouble=mirror_trouble,
    )


def _cancelled(prepared: Prepared, unfinished: Sequence[SweepRun]) -> list[str]:
    """Names of those that somebody cancelled, or their trunk."""
    try:
        control = read_control(prepared.storage.sweep(prepared.spec.name))
    except UserError:  # the launch has told of it, and what it did is to be told too
        return []
    return [run.name for run in unfinished if control.cancels(run.key) or control.cancels(run.trunk or "")]
