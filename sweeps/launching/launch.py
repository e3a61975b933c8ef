"""Launch a sweep: run what is missing through the supervisor, measure what serving costs, and mirror it all to MLflow.

Everything that exists is skipped, so the same command goes on after any interruption and does nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from cluster.executor import Executor
from cluster.session import open_session
from cluster.signals import signals_exit
from llama.errors import UserError
from llama.full_disk import naming_a_full_disk
from sweeps.control import cancelled_segments, read_control
from sweeps.designs.spec import load_sweep
from sweeps.hardware.place import this_place
from sweeps.launching.cluster_place import cluster_place
from sweeps.launching.damage import put_damaged_aside
from sweeps.launching.heeding import Heeding
from sweeps.launching.hold import hold_sweep
from sweeps.launching.measuring import calibrate_here, calibrate_shapes, measure_inference, share_serving_costs
from sweeps.launching.mirrored import Mirrored
from sweeps.launching.own_ray import own_ray
from sweeps.launching.result import LaunchResult, count_result
from sweeps.launching.standing import Standing
from sweeps.launching.training import train_segments
from sweeps.planning.prepare import Prepared, prepare, require_fit
from sweeps.planning.stored_plan import keep_plan
from sweeps.storage import Storage, find_source, register_sweep
from sweeps.tracking import Mirror, check_tracking, default_tracking_uri
from sweeps.trainer_command.require_command import require_command
from sweeps.words import count, duration


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
    source = find_source(argument, storage)
    storage, spec = source.storage, load_sweep(source.yaml_path)
    if spec.tune is not None:
        raise UserError(f"{source.yaml_path} is a tuning study (it has a block tune): isoloss tune runs it")
    if spec.trainer is not None and address is None:
        require_command(spec.trainer.command, cwd=source.spec_folder)
    storage.require_writable()
    uri = default_tracking_uri(storage.root, tracking_uri)
    warning = check_tracking(uri)
    if warning is not None:
        say(warning)
    with ExitStack() as stack:
        stack.enter_context(signals_exit())
        stack.enter_context(naming_a_full_disk(storage.root))
        executor: Executor | None = None
        if address is not None:
            executor = stack.enter_context(open_session(address=address))
        place = this_place() if executor is None else cluster_place(executor)
        prepared = prepare(argument, storage, place, say=say)
        require_fit([prepared.plan])
        stack.enter_context(hold_sweep(storage, prepared.spec.name, wait=wait, say=say))
        register_sweep(storage, prepared.index, prepared.yaml_path)
        configs = {storage.run(run.record.key): run.config for run in prepared.design.runs}
        put_damaged_aside(configs, say=say)
        standing = Standing(prepared)
        missing = standing.missing()
        sweep_folder = storage.sweep(prepared.spec.name)
        heeding = Heeding(sweep_folder, missing, prepared.names, say=say)
        if executor is None and (missing or remeasure):  # while nothing may run, there is no need for a Ray
            heeding.wait_while_paused()
        control = read_control(sweep_folder)
        wanted = len(missing) - len(cancelled_segments(control, missing))
        mirror = Mirror(storage.root, prepared.index, uri)
        unserved = not control.cancelled and (remeasure or bool(share_serving_costs(prepared, standing)))
        if not wanted and not unserved:
            mirror.start()
            return count_result(prepared, standing, None, mirror_trouble=mirror.stop().trouble)
        if calibrate:
            if executor is None:
                prepared = calibrate_here(prepared, place, say=say)
            else:
                prepared = calibrate_shapes(prepared, place, executor, say=say)
            require_fit([prepared.plan])
        if executor is None:
            executor = stack.enter_context(own_ray(prepared, place, say=say))
        keep_plan(storage, prepared.plan, finished_runs=count_result(prepared, standing, None).finished)
        with Mirrored(mirror, say=say) as mirrored:
            say(f"{count(wanted, 'segment')} to run, {prepared.plan.slots} at once{_expected(prepared)}")
            summary = train_segments(
                prepared,
                missing,
                executor,
                place,
                heeding,
                trouble=lambda: mirror.trouble,
                say=say,
            )
            standing = Standing(prepared)
            say(count_result(prepared, standing, summary).throughput)
            if executor.capacity() and not read_control(sweep_folder).cancelled:
                measure_inference(prepared, standing, executor, place, heeding, again=remeasure, say=say)
        return count_result(prepared, standing, summary, mirror_trouble=mirrored.trouble)


def _expected(prepared: Prepared) -> str:
    """What the plan expects of the whole sweep, where every speed was measured."""
    seconds = prepared.plan.wall_seconds
    return "" if seconds is None else f"; the whole sweep takes about {duration(seconds)}"
