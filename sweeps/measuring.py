"""Timings that a launch makes when nothing else runs: training speed for the plan, serving cost for the decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.executor import Executor
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from llama.errors import UserError
from llama.records import RunStatus, read_inference, read_status
from sweeps import worker
from sweeps.calibration import SpeedPoint, store
from sweeps.plan import make_plan
from sweeps.prepare import Place, Prepared, gpu_share, run_slots

CALIBRATION_SECONDS = 1.5


def run_resources(prepared: Prepared, place: Place) -> Resources:
    """What one run takes."""
    cpus = float(prepared.spec.resources.cpus)
    return Resources(cpus=cpus, gpus=gpu_share(prepared.design) if place.gpus else 0.0)


def calibrate_shapes(prepared: Prepared, place: Place, executor: Executor, *, say: Callable[[str], None]) -> Prepared:
    """Measure the training speed of every shape that the cache lacks, alone on this machine, and plan anew with it."""
    shapes = {(run.config.model, run.config.recipe.batch_sequences): run.config for run in prepared.design.runs}
    known = {(point.model, point.batch_sequences) for point in prepared.calibration.points}
    wanted = {f"{n}": config for n, (shape, config) in enumerate(shapes.items()) if shape not in known}
    if not wanted:
        return prepared
    say(f"measuring the training speed of {len(wanted)} shapes, alone on this machine")
    numerics = prepared.design.numerics
    task = Task(
        id="calibration",
        function=worker.measure_speed,
        arguments={
            "shapes": {
                name: (config.model.model_dump_json(), config.recipe.model_dump_json())
                for name, config in wanted.items()
            },
            "dtype": numerics.dtype,
            "attention_kernel": numerics.attention_kernel,
            "seconds": CALIBRATION_SECONDS,
            "threads": prepared.spec.resources.cpus,
        },
        resources=replace(run_resources(prepared, place), whole_node=True),
    )
    summary = Supervisor([task], executor).run()
    if not summary.ok:
        raise UserError(f"the training speed could not be measured: {summary.failed[task.id].message}")
    speeds = summary.done[task.id]
    points = [
        SpeedPoint(
            model=config.model,
            batch_sequences=config.recipe.batch_sequences,
            tokens_per_second=speeds[name],
        )
        for name, config in wanted.items()
    ]
    calibration = store(prepared.setup, points)
    plan = make_plan(prepared.design, calibration, slots=run_slots(prepared.design, place))
    return replace(prepared, calibration=calibration, plan=plan)


def unmeasured_runs(prepared: Prepared) -> dict[str, list[str]]:
    """Keys of the finished runs that lack a measured serving cost, by size."""
    by_size: dict[str, list[str]] = {}
    if prepared.spec.inference is None:
        return by_size
    for run in prepared.design.runs:
        folder = prepared.storage.run(run.record.key)
        if not run.record.is_trunk and read_status(folder) is RunStatus.FINISHED and read_inference(folder) is None:
            by_size.setdefault(run.size, []).append(run.record.key)
    return by_size


def measure_inference(prepared: Prepared, executor: Executor, place: Place, *, say: Callable[[str], None]) -> None:
    """Measure every size that lacks it in one task with a node to itself, sizes interleaved, and share the result."""
    protocol, by_size = prepared.spec.inference, unmeasured_runs(prepared)
    if protocol is None or not by_size:
        return
    say(f"measuring what serving costs at {len(by_size)} sizes, nothing else running")
    task = Task(
        id="inference",
        function=worker.measure_inference,
        arguments={
            "storage": str(prepared.storage.root),
            "shapes": {size: prepared.design.models[size].model_dump_json() for size in by_size},
            "run_keys": by_size,
            "protocol": protocol.model_dump_json(),
            "dtype": prepared.design.numerics.dtype,
            "threads": prepared.spec.resources.cpus,
        },
        resources=replace(run_resources(prepared, place), whole_node=True),
    )
    summary = Supervisor([task], executor).run()
    if not summary.ok:
        say(f"serving cost was not measured: {summary.failed[task.id].message}")
