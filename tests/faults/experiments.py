"""A sweep disturbed from its start to its end, held to every invariant, and what it cost: tests and figures come from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llama.records import complete_steps
from llama.trainer import train_segment
from sweeps.hardware.place import this_place
from sweeps.planning.prepare import prepare
from sweeps.storage import Storage, register_sweep
from tests.faults import ledger
from tests.faults.figures import Figures, count
from tests.faults.gates import STATES
from tests.faults.invariants import assert_complete, assert_journals_whole, assert_recovered, first_steps
from tests.faults.kills import (
    LauncherVictim,
    NodeVictim,
    OwnRayletVictim,
    TrackingVictim,
    Victim,
    WorkerVictim,
    kill_at_random,
    kill_in_states,
)
from tests.faults.standing import StandingCluster
from tests.faults.sweep import Sweep, make_sweep, processes_of
from tests.integration.tracking_server import TrackingServer

LAUNCHER, WORKER, OWN_RAYLET = LauncherVictim.name, WorkerVictim.name, OwnRayletVictim.name
NODE, TRACKING = NodeVictim.name, TrackingVictim.name


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A sweep, and those around it that can be killed."""

    sweep: Sweep
    database: Path
    """Where MLflow keeps what it is told."""
    victims: Mapping[str, Victim]


@contextmanager
def setting(
    folder: Path, victims: Sequence[str], *, step_seconds: float = 0.01, checkpoint_seconds: float = 0.1
) -> Iterator[Setting]:
    """A sweep on a Ray of its own and SQLite, unless a node or a tracking server is to be killed."""
    sweep = make_sweep(folder, step_seconds=step_seconds, checkpoint_seconds=checkpoint_seconds)
    database = sweep.storage / "mlflow.db"
    there: dict[str, Victim] = {LAUNCHER: LauncherVictim(), WORKER: WorkerVictim(), OWN_RAYLET: OwnRayletVictim()}
    with ExitStack() as stack:
        if TRACKING in victims:
            (folder / "server").mkdir()
            server = TrackingServer(folder / "server")
            stack.callback(server.down)
            server.up()
            there[TRACKING], database = TrackingVictim(server), server.database
            sweep = replace(sweep, options=("--tracking-uri", server.uri))
        if NODE in victims:
            cluster = stack.enter_context(StandingCluster(sweep))
            there[NODE], sweep = NodeVictim(cluster), cluster.sweep
        stack.callback(_kill_what_is_left, sweep)
        yield Setting(sweep=sweep, database=database, victims={name: there[name] for name in victims})


def in_states(victims: Sequence[str], folder: Path, undisturbed: Sweep, states: Sequence[str] = STATES) -> Figures:
    """Kill the victims once in each state of a run."""
    with setting(folder, victims) as where:
        kill_in_states(where.sweep, list(where.victims.values()), states)
        return _accounted(where, undisturbed)


def at_random(folder: Path, undisturbed: Sweep, *, kills: int, seed: int) -> Figures:
    """Kill one of all at so many random moments."""
    steps = _steps_of(undisturbed)
    with setting(folder, [LAUNCHER, WORKER, NODE, TRACKING], step_seconds=0.3, checkpoint_seconds=2.0) as where:
        kill_at_random(where.sweep, list(where.victims.values()), kills=kills, steps=steps, seed=seed)
        return _accounted(where, undisturbed)


def undisturbed_sweep(folder: Path) -> Sweep:
    """The sweep as it ends when nothing happens to it: its segments one after the other in this process, without launcher,
    workers or Ray.
    """
    sweep = make_sweep(folder)
    storage = Storage(sweep.storage)
    prepared = prepare(str(sweep.yaml_path), storage, this_place(), say=lambda line: None)
    register_sweep(storage, prepared.index, prepared.yaml_path)
    for segment in prepared.design.segments:
        config = segment.config
        train_segment(
            config,
            run_folder=storage.run(segment.run_key),
            parent_folder=None if config.parent is None else storage.run(config.parent),
            corpus=prepared.corpus,
            until_step=segment.end_step,
        )
    assert_complete(sweep)
    assert_journals_whole(sweep)
    return sweep


def _steps_of(sweep: Sweep) -> int:
    """How many a sweep that is complete took."""
    return sum(max(complete_steps(sweep.storage / "runs" / key)) - first for key, first in first_steps(sweep).items())


def _accounted(where: Setting, undisturbed: Sweep) -> Figures:
    assert_recovered(where.sweep, undisturbed, database=where.database)
    return count(ledger.read(where.sweep.faults))


def _kill_what_is_left(sweep: Sweep) -> None:
    for process in processes_of(sweep):
        process.kill()
