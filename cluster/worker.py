"""Inside a worker process: one attempt from its pickled call to its pickled outcome. Shared by every executor.

Run as `python -m cluster.worker FD` this is the local executor's worker: it serves calls over the socket FD, whose other
end only the parent holds, until that end closes. Nothing else writes there, so what is unpickled is our own.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from cluster.gang import free_port
from cluster.orphans import bind_children
from cluster.task import Failed, FailureKind, Member, Outcome, Succeeded, Task
from llama.errors import Diverged, Fenced, Preempted, UserError
from llama.lease import LeaseHeld

#: Read by numerical libraries when they are first imported.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def pack_call(task: Task, attempt: int) -> bytes:
    """The call that `run_call` makes. Plain pickle: a function that no worker could import fails here, before it travels.

    Raises:
        ValueError: the function or an argument can't be pickled.
    """
    try:
        return pickle.dumps((task.function, {**task.arguments, "attempt": attempt}))
    except Exception as error:
        raise ValueError(f"task {task.id}: its function and arguments must pickle: {error}") from error


def unpack_outcome(packed: bytes) -> Outcome:
    """The outcome that our own worker packed."""
    outcome: Outcome = pickle.loads(packed)
    return outcome


def run_call(packed: bytes, threads: int, join: Callable[[], Member] | None = None) -> bytes:
    """Make the call and pack its outcome. Raises nothing: what the function raised is part of the outcome. A member of a gang
    first joins the others.
    """
    set_threads(threads)  # before unpickling, which imports the function's module and perhaps torch with it
    started = time.perf_counter()
    try:
        function, arguments = pickle.loads(packed)
        outcome = _run(function, arguments if join is None else {**arguments, "member": join()})
    except Exception as error:
        outcome = _failure(error, time.perf_counter() - started)
    try:
        return pickle.dumps(outcome)
    except Exception as error:
        unpicklable = TypeError(f"what the task returned can't be pickled: {error}")
        return pickle.dumps(_failure(unpicklable, time.perf_counter() - started))


def _run(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Outcome:
    started = time.perf_counter()
    try:
        value = function(**arguments)
    except (Exception, SystemExit) as error:
        return _failure(error, time.perf_counter() - started)
    return Succeeded(value=value, seconds=time.perf_counter() - started)


def _failure(error: BaseException, seconds: float) -> Failed:
    text = "".join(traceback.format_exception(error))
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Failed(kind=classify(error), message=message, traceback=text, seconds=seconds)


def classify(error: BaseException) -> FailureKind:
    """The kind of failure that an exception raised by a task's function is."""
    if isinstance(error, UserError):
        return FailureKind.USER_ERROR
    if isinstance(error, Diverged):
        return FailureKind.NON_FINITE
    if isinstance(error, Fenced):
        return FailureKind.FENCED
    if isinstance(error, LeaseHeld):
        return FailureKind.HELD
    if isinstance(error, Preempted):
        return FailureKind.PREEMPTED
    # torch is not imported here: its CUDA error goes by name, its CPU allocator raises a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.CRASHED


def threads_of(task: Task) -> int:
    return max(1, int(task.resources.cpus))


def set_threads(threads: int) -> None:
    """Hold numerical libraries to so many threads: by environment before they load, torch also afterwards."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however that happens (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the call above
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, so that none can hide from us (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _serve(connection: Connection) -> None:
    parent_pid, search_path = connection.recv()
    die_with_parent(parent_pid)
    bind_children()
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    while True:
        try:
            packed, threads, seat = connection.recv()
        except EOFError:
            return
        join = None if seat is None else partial(_join, connection, *seat)
        connection.send_bytes(run_call(packed, threads, join))


def _join(connection: Connection, rank: int, world_size: int) -> Member:
    """Report in, and wait until all have."""
    connection.send(free_port())
    return Member(rank=rank, world_size=world_size, rendezvous=connection.recv())


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
