"""The training of a launch: missing segments as tasks, run to their ends by the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cluster.executor import Executor
from cluster.states import Event, Summary
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from sweeps.attempts import AttemptLog
from sweeps.designs.segments import Segment
from sweeps.hardware.place import Place
from sweeps.launching import worker
from sweeps.launching.at_work import AtWork
from sweeps.launching.heeding import Heeding
from sweeps.launching.standing import segment_is_done
from sweeps.planning.prepare import Prepared, run_resources
from sweeps.watching.live import LiveView

#: Without a measured speed, order segments as if every shape trained at this rate; only their order depends on it.
ORDERING_FLOPS_PER_SECOND = 3e10


def train_segments(
    prepared: Prepared,
    missing: Sequence[Segment],
    executor: Executor,
    place: Place,
    heeding: Heeding,
    *,
    trouble: Callable[[], str | None],
    say: Callable[[str], None],
) -> Summary:
    """Run them, with a live table. `trouble` is what keeps MLflow from following, for that table."""
    storage = prepared.storage
    segments = {segment.id: segment for segment in missing}
    estimates = {segment.id: _estimated_seconds(prepared, segment) for segment in missing}
    view = LiveView(
        missing,
        prepared.names,
        estimates,
        storage.runs,
        storage.sweep(prepared.spec.name),
        trouble=trouble,
        say=say,
    )
    attempts, at_work = AttemptLog(storage, segments), AtWork(storage, segments)

    def on_event(event: Event) -> None:
        attempts.on_event(event)
        at_work.on_event(event)
        view.on_event(event)

    supervisor = supervise(
        prepared,
        segments,
        executor,
        place,
        heeding,
        at_work,
        estimated_seconds=estimates,
        is_done=lambda id: segment_is_done(storage, segments[id]),
        on_event=on_event,
    )
    with view, attempts, heeding.saying(view.announce):
        return supervisor.run()


def supervise(
    prepared: Prepared,
    segments: Mapping[str, Segment],
    executor: Executor,
    place: Place,
    heeding: Heeding,
    at_work: AtWork,
    *,
    estimated_seconds: Mapping[str, float],
    is_done: Callable[[str], bool],
    on_event: Callable[[Event], None],
) -> Supervisor:
    """Segments by id as tasks that train them, under a supervisor that is still to run. A need that is no segment is met."""
    resources = run_resources(prepared.design, place, prepared.calibration)
    tasks = [
        Task(
            id=id,
            function=worker.train,
            arguments=_arguments(prepared, segment, resources),
            needs=frozenset(segment.needs) & segments.keys(),
            resources=resources,
            estimated_seconds=estimated_seconds[id],
        )
        for id, segment in segments.items()
    ]
    supervisor = Supervisor(
        tasks,
        executor,
        is_done=lambda task: is_done(task.id),
        stalled=at_work.stalled,
        progress=at_work.progress,
        orders=lambda: heeding.orders(supervisor.states),
        on_event=on_event,
    )
    return supervisor


def _arguments(prepared: Prepared, segment: Segment, resources: Resources) -> dict[str, object]:
    """Of `worker.train`, for one segment."""
    return {
        "storage": str(prepared.storage.root),
        "config": segment.config.model_dump_json(),
        "corpus_folder": prepared.index.corpus_folder,
        "until_step": segment.end_step,
        "spec_folder": prepared.index.spec_folder,
        "threads": prepared.spec.resources.cpus,
        "gpu_share": resources.gpus,
    }


def _estimated_seconds(prepared: Prepared, segment: Segment) -> float:
    return prepared.schedule.seconds.get(segment.id, segment.flops / ORDERING_FLOPS_PER_SECOND)
