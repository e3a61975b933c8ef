"""Attempts in worker processes of this machine, without Ray. Workers are kept between attempts: torch loads once in each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_any
from pathlib import Path
from typing import IO, cast

from cluster.executor import OWN_NODE_SECONDS, Finished, Node
from cluster.gang import GATHER_SECONDS, Gang
from cluster.machine import available_cpus, visible_gpus
from cluster.signals import SIGNALS
from cluster.task import Failed, FailureKind, Outcome, Task
from cluster.worker import THREAD_VARIABLES, pack_call, threads_of, unpack_outcome

_NODE = "local"
#: Of a dead worker's output, what its failure quotes.
_QUOTED_BYTES = 2_000


@dataclass(kw_only=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    output: IO[bytes]
    """The worker's stdout and stderr, for the message about its death."""
    shape: tuple[int, tuple[str, ...]]
    """Threads and GPUs, which a process is born with."""


@dataclass(kw_only=True, eq=False)
class _Attempt:
    task_id: str
    number: int
    gang: Gang
    """Of one member where the task is no gang: then nobody reports in."""
    busy: dict[int, _Worker] = field(default_factory=dict)
    """By rank, the members that have not ended."""
    gpu_share: float
    started: float = field(default_factory=time.monotonic)


class LocalExecutor:
    """An `Executor` of one node. Close it, or use it in a `with` statement.

    Workers get SIGKILL when the thread that submitted to them ends, so submit from one that lives as long as the work.
    """

    def __init__(
        self,
        *,
        cpus: int | None = None,
        gpus: Sequence[str] | None = None,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """`gpus` are named as in `CUDA_VISIBLE_DEVICES`; by default all cores and GPUs that this process may use."""
        self.lost_node_seconds = OWN_NODE_SECONDS
        self._cpus = available_cpus() if cpus is None else cpus
        self._free_gpus = dict.fromkeys(visible_gpus() if gpus is None else gpus, 1.0)
        self._gather_seconds = gather_seconds
        self._idle: list[_Worker] = []
        self._running: dict[tuple[str, int], _Attempt] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def capacity(self) -> list[Node]:
        return [Node(id=_NODE, cpus=self._cpus, gpus=len(self._free_gpus), name="this machine")]

    def submit(self, task: Task, attempt: int, node_ids: Sequence[str]) -> None:
        packed, members = pack_call(task, attempt), len(node_ids)
        gang = Gang(members, host="127.0.0.1", now=time.monotonic(), gather_seconds=self._gather_seconds)
        share, count = (task.resources.gpus, 1) if 0 < task.resources.gpus < 1 else (1.0, int(task.resources.gpus))
        running = _Attempt(task_id=task.id, number=attempt, gang=gang, gpu_share=share)
        self._running[task.id, attempt] = running
        for rank in range(members):
            worker = self._worker((threads_of(task), self._take_gpus(share, count)))
            running.busy[rank] = worker
            # A worker that died while idle is found by the poll, as one that dies at work.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.connection.send((packed, threads_of(task), (rank, members) if members > 1 else None))

    def poll(self, timeout_seconds: float) -> list[Finished]:
        if not self._running:
            time.sleep(timeout_seconds)
            return []
        members = {
            worker.connection: (attempt, rank)
            for attempt in self._running.values()
            for rank, worker in attempt.busy.items()
        }
        deadline = min(attempt.gang.deadline() for attempt in self._running.values())
        for connection in wait_any(list(members), max(0.0, min(timeout_seconds, deadline - time.monotonic()))):
            attempt, rank = members[cast(Connection, connection)]
            self._hear(attempt, rank)
        finished = []
        for attempt in list(self._running.values()):
            if attempt.gang.must_be_killed(time.monotonic()):
                self._kill(attempt)
            outcome = attempt.gang.outcome()
            if outcome is not None:
                del self._running[attempt.task_id, attempt.number]
                finished.append(Finished(task_id=attempt.task_id, attempt=attempt.number, outcome=outcome))
        return finished

    def leave(self, task_id: str, attempt: int) -> None:
        running = self._running.get((task_id, attempt))
        for worker in running.busy.values() if running is not None else ():
            worker.process.send_signal(signal.SIGUSR1)

    def cancel(self, task_id: str, attempt: int) -> None:
        running = self._running.get((task_id, attempt))
        if running is not None:
            self._kill(running)

    def close(self) -> None:
        for attempt in self._running.values():
            self._kill(attempt)
        for worker in [
            *self._idle,
            *(worker for attempt in self._running.values() for worker in attempt.busy.values()),
        ]:
            _kill(worker)
            self._bury(worker)
        self._idle.clear()
        self._running.clear()

    def _hear(self, attempt: _Attempt, rank: int) -> None:
        """What a member has to say: that it is there, or how its call ended; or that it is gone."""
        worker, gang = attempt.busy[rank], attempt.gang
        outcome: Outcome
        try:
            if gang.world_size > 1 and not gang.has_reported(rank):
                gang.report(rank, worker.connection.recv())
                if gang.rendezvous is not None:
                    for member in attempt.busy.values():
                        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                            member.connection.send(gang.rendezvous)
                return
            outcome = unpack_outcome(worker.connection.recv_bytes())
            self._idle.append(worker)
        except (EOFError, ConnectionResetError):
            outcome = self._death(worker, time.monotonic() - attempt.started)
        del attempt.busy[rank]
        for gpu in worker.shape[1]:
            self._free_gpus[gpu] = round(self._free_gpus[gpu] + attempt.gpu_share, 4)
        gang.end(rank, outcome, time.monotonic())

    def _kill(self, attempt: _Attempt) -> None:
        for worker in attempt.busy.values():
            _kill(worker)

    def _death(self, worker: _Worker, seconds: float) -> Failed:
        code = worker.process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        worker.output.seek(max(0, worker.output.seek(0, os.SEEK_END) - _QUOTED_BYTES))
        said = worker.output.read().decode(errors="replace").strip()
        self._bury(worker)
        # A request to leave, which it had not begun to listen to: from a batch system, a spot notice, or us.
        kind = FailureKind.PREEMPTED if -code in SIGNALS else FailureKind.WORKER_DIED
        message = f"worker process {worker.process.pid} ended {how}"
        return Failed(kind=kind, message=message, traceback=said, seconds=seconds)

    def _bury(self, worker: _Worker) -> None:
        worker.process.wait()
        worker.connection.close()
        worker.output.close()

    def _take_gpus(self, share: float, count: int) -> tuple[str, ...]:
        """Takes the share of so many: the supervisor's ledger chooses by the same rule, so both stay in step."""
        able = [(free, name) for name, free in self._free_gpus.items() if free >= share]
        by_free = sorted(able, key=lambda gpu: gpu[0])  # stable: among equals the first
        if len(by_free) < count:
            raise ValueError(f"{count} GPUs with {share:g} free asked for where the free shares are {self._free_gpus}")
        chosen = tuple(sorted(name for _, name in by_free[:count]))
        for name in chosen:
            self._free_gpus[name] = round(self._free_gpus[name] - share, 4)
        return chosen

    def _worker(self, shape: tuple[int, tuple[str, ...]]) -> _Worker:
        """An idle worker of that shape, or a new one in the place of an idle one of another shape."""
        for worker in self._idle:
            if worker.shape == shape:
                self._idle.remove(worker)
                return worker
        busy = sum(len(attempt.busy) for attempt in self._running.values())
        if len(self._idle) + busy >= self._cpus and self._idle:
            unfit = self._idle.pop(0)
            _kill(unfit)
            self._bury(unfit)
        return self._spawn(shape)

    def _spawn(self, shape: tuple[int, tuple[str, ...]]) -> _Worker:
        threads, gpus = shape
        ours, theirs = multiprocessing.Pipe()
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker is buried
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(threads)),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cluster.worker", str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the driver, which decides what becomes of its workers
        )
        theirs.close()
        ours.send((os.getpid(), [str(Path(entry).absolute()) for entry in sys.path]))
        return _Worker(process=process, connection=ours, output=output, shape=shape)


def _kill(worker: _Worker) -> None:
    """With all of its group: it leads one of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
