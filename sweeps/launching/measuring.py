"""Timings that a launch makes when nothing else runs: training speed for the plan, serving cost for the decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from cluster.executor import Executor
from cluster.local_executor import LocalExecutor
from cluster.mps import sharing_gpus
from cluster.states import Event, Orders, Policy, State
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from llama.accounting import training_flops_per_token
from llama.config import ModelConfig
from llama.errors import UserError
from llama.records import INFERENCE, InferenceCost, RunStatus, read_inference, write_record
from llama.sharing import SharedSpeed
from sweeps.hardware.calibration import PackingPoint, SpeedPoint, TrainedShape, store
from sweeps.hardware.place import Place
from sweeps.launching import worker
from sweeps.launching.heeding import Heeding
from sweeps.launching.standing import Standing
from sweeps.planning.prepare import Prepared, calibrated, gpu_share, hungriest, run_resources
from sweeps.words import count

CALIBRATION_SECONDS = 1.5
#: Of each number of runs side by side, after all have warmed up.
PACKING_SECONDS = 3.0
#: A shape, or a number of runs side by side, that takes longer than this to measure is taken for hung.
PIECE_SECONDS = 1200.0
#: A measurement waits so long for a lost node: launched again, it is all that is left to do.
NO_NODE_SECONDS = 60.0


class Cancelled(UserError):
    """Somebody cancelled the sweep while it measured."""


def calibrate_here(prepared: Prepared, place: Place, *, say: Callable[[str], None]) -> Prepared:
    """`calibrate_shapes` in processes of its own on this machine, which share its GPUs as the sweep's runs would: through MPS
    where it is there.
    """
    with ExitStack() as stack:
        if place.gpus and prepared.spec.resources.gpus is None:
            stack.enter_context(sharing_gpus(say))
        executor = stack.enter_context(LocalExecutor())
        return calibrate_shapes(prepared, place, executor, say=say)


def calibrate_shapes(prepared: Prepared, place: Place, executor: Executor, *, say: Callable[[str], None]) -> Prepared:
    """Measure the training speed of every shape that the cache lacks, alone on this machine, and plan anew with it.

    Raises:
        UserError: a command trains the sweep, or the measurement failed.
    """
    if prepared.spec.trainer is not None:
        raise UserError("--calibrate measures isoloss's own trainer; a command's speeds come from its finished runs")
    shapes = {TrainedShape.of(run.config): run.config for run in prepared.design.runs}
    known = {point.shape for point in prepared.calibration.points}
    wanted = {f"{n}": config for n, (shape, config) in enumerate(shapes.items()) if shape not in known}
    if not wanted:
        return _calibrate_packing(prepared, place, executor, say=say)
    say(f"measuring the training speed of {count(len(wanted), 'shape')}, alone on this machine")
    task = Task(
        id="calibration",
        function=worker.measure_speed,
        arguments={
            "shapes": {name: config.model_dump_json() for name, config in wanted.items()},
            "seconds": CALIBRATION_SECONDS,
            "threads": prepared.spec.resources.cpus,
            "gpu_share": gpu_share(prepared.design, prepared.calibration) if place.gpus else 0.0,
        },
        resources=replace(run_resources(prepared.design, place, prepared.calibration), whole_node=True),
    )
    speeds = _measure(task, executor, pieces=len(wanted), what="the training speed")
    points = [
        SpeedPoint(shape=TrainedShape.of(config), tokens_per_second=speeds[name]) for name, config in wanted.items()
    ]
    prepared = calibrated(prepared, store(prepared.setup, points))
    return _calibrate_packing(prepared, place, executor, say=say)


def _calibrate_packing(prepared: Prepared, place: Place, executor: Executor, *, say: Callable[[str], None]) -> Prepared:
    """Measure how many runs a device trains best at once: on GPUs of every size that the sweep leaves to us, on a CPU of the
    largest, where it tells what a core a run is worth.
    """
    configs = list(hungriest(prepared.design).values())
    if not place.gpus:
        configs = [max(configs, key=lambda config: training_flops_per_token(config.model))]
    elif prepared.spec.resources.gpus is not None:
        return prepared
    shapes = {TrainedShape.of(config): config for config in configs}
    wanted = {shape: config for shape, config in shapes.items() if prepared.calibration.shared(shape) is None}
    if not wanted:
        return prepared
    cpus = prepared.spec.resources.cpus
    cores = max(int(node.cpus / max(1, node.gpus)) for node in place.nodes)
    say(f"measuring {count(len(wanted), 'shape')} with several runs on one device")
    task = Task(
        id="packing",
        function=worker.measure_packing,
        arguments={
            "shapes": [config.model_dump_json() for config in wanted.values()],
            "seconds": PACKING_SECONDS,
            "cores": cores,
            "threads": cpus if place.gpus else None,
        },
        resources=Resources(cpus=float(cpus), gpus=1.0 if place.gpus else 0.0, whole_node=True),
    )
    try:
        found = _measure(task, executor, pieces=len(wanted) * cores.bit_length(), what="how runs share a device")
    except UserError as error:
        say(str(error))
        return prepared
    packing = [
        PackingPoint(
            shape=shape,
            speeds=[SharedSpeed.model_validate(speed) for speed in speeds],
            through_mps=found["through_mps"],
        )
        for shape, speeds in zip(wanted, found["speeds"], strict=True)
    ]
    return calibrated(prepared, store(prepared.setup, (), packing))


def share_serving_costs(prepared: Prepared, standing: Standing) -> list[str]:
    """Give every finished run its size's serving cost, where one was measured as the sweep asks; returns the sizes without."""
    missing = []
    for size, keys in _finished_keys(prepared, standing).items():
        folders = [prepared.storage.run(key) for key in keys]
        costs = [cost for cost in map(read_inference, folders) if cost is not None and _as_asked(prepared, cost)]
        if not costs:
            missing.append(size)
            continue
        for folder in folders:
            if read_inference(folder) != costs[0]:
                write_record(folder / INFERENCE, costs[0])
    return missing


def _finished_keys(prepared: Prepared, standing: Standing) -> dict[str, list[str]]:
    """Keys of the finished runs by size; none where the sweep measures no serving cost."""
    by_size: dict[str, list[str]] = {}
    for run in prepared.design.runs if prepared.spec.inference is not None else []:
        if not run.record.is_trunk and standing.status(run.record.key) is RunStatus.FINISHED:
            by_size.setdefault(run.size, []).append(run.record.key)
    return by_size


def _as_asked(prepared: Prepared, cost: InferenceCost) -> bool:
    """Whether a stored measurement follows the sweep's protocol."""
    asked = prepared.spec.inference
    return asked is not None and (
        (cost.prompt_tokens, cost.output_tokens, cost.repetitions, cost.threads, cost.dtype)
        == (
            asked.prompt_tokens,
            asked.output_tokens,
            asked.repetitions,
            prepared.spec.resources.cpus,
            prepared.design.numerics.dtype,
        )
    )


def measure_inference(
    prepared: Prepared,
    standing: Standing,
    executor: Executor,
    place: Place,
    heeding: Heeding,
    *,
    again: bool,
    say: Callable[[str], None],
) -> None:
    """Measure serving cost where a size lacks it, or everywhere `again`: always all sizes in one task with a node to itself,
    interleaved, since only what was measured together compares.
    """
    protocol, by_size = prepared.spec.inference, _finished_keys(prepared, standing)
    if protocol is None or not by_size or not (again or share_serving_costs(prepared, standing)):
        return
    say(f"measuring what serving costs at {count(len(by_size), 'size')}, nothing else running")
    try:
        shapes = {size: prepared.design.models[size] for size in by_size}
        measure_shapes(prepared, executor, place, shapes, by_size, orders=heeding.orders_for)
    except Cancelled as cancelled:  # that it takes `isoloss resume` was told as it was heeded
        say(str(cancelled))
    except UserError as error:
        say(f"{error}; launch again to measure it")


def measure_shapes(
    prepared: Prepared,
    executor: Executor,
    place: Place,
    shapes: Mapping[str, ModelConfig],
    run_keys: Mapping[str, Sequence[str]],
    orders: Callable[[str], Orders] = lambda task_id: Orders(),
) -> dict[str, InferenceCost]:
    """Measure what serving each shape costs, interleaved in one task with a node to itself, and leave it in the folders of the
    runs that have the shape. `orders` are what people ask for, by the task's id.

    Raises:
        UserError: the measurement failed, or the sweep says not how to measure.
    """
    if prepared.spec.inference is None:
        raise UserError("inference: off says not how serving is measured")
    task = Task(
        id="inference",
        function=worker.measure_inference,
        arguments={
            "storage": str(prepared.storage.root),
            "shapes": {name: model.model_dump_json() for name, model in shapes.items()},
            "run_keys": {name: list(keys) for name, keys in run_keys.items()},
            "protocol": prepared.spec.inference.model_dump_json(),
            "dtype": prepared.design.numerics.dtype,
            "threads": prepared.spec.resources.cpus,
            "gpu_share": gpu_share(prepared.design, prepared.calibration) if place.gpus else 0.0,
        },
        resources=replace(run_resources(prepared.design, place, prepared.calibration), whole_node=True),
    )
    costs = _measure(task, executor, pieces=len(shapes), what="serving cost", orders=orders)
    return {name: InferenceCost.model_validate_json(cost) for name, cost in costs.items()}


def _measure(
    task: Task,
    executor: Executor,
    *,
    pieces: int,
    what: str,
    orders: Callable[[str], Orders] = lambda task_id: Orders(),
) -> Any:
    """What the task returns, run alone. It counts as hung after `PIECE_SECONDS` for each of its pieces.

    Raises:
        Cancelled: somebody cancelled it.
        UserError: it failed.
    """
    running_since = 0.0

    def on_event(event: Event) -> None:
        nonlocal running_since
        if event.state is State.RUNNING:
            running_since = time.monotonic()

    def stalled(task: Task) -> bool:
        return time.monotonic() - running_since > pieces * PIECE_SECONDS

    summary = Supervisor(
        [task],
        executor,
        stalled=stalled,
        orders=lambda: orders(task.id),
        on_event=on_event,
        policy=Policy(no_node_seconds=NO_NODE_SECONDS),
    ).run()
    if summary.cancelled:
        raise Cancelled(f"{what} was not measured: the sweep was cancelled")
    if not summary.ok:
        raise UserError(f"{what} was not measured: {summary.failed[task.id].message}")
    return summary.done[task.id]
