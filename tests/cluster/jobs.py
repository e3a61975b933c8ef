"""What the tests have workers do: importable by name, as every task's function must be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cluster.task import Member
from llama.errors import Diverged, Fenced, Preempted, UserError
from llama.preemption import preemption_notice


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def give(*, attempt: int, value: Any = None) -> Any:
    return value


def describe_process(*, attempt: int) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def fail(*, attempt: int, how: str) -> None:
    errors: dict[str, BaseException] = {
        "user_error": UserError("sweep.yaml line 3: lr is -1"),
        "non_finite": Diverged("loss is nan at step 7"),
        "preempted": Preempted("SIGTERM came; left after step 7"),
        "fenced": Fenced("attempt 2 has taken over"),
        "out_of_memory": OutOfMemoryError("CUDA out of memory"),
        "crashed": ZeroDivisionError("division by zero"),
        "exit": SystemExit(3),
    }
    raise errors[how]


def give_the_unpicklable(*, attempt: int) -> Any:
    return lambda: None


def kill_own_process(*, attempt: int, on_attempts: int, number: int = signal.SIGKILL) -> int:
    """Dies on the first `on_attempts` attempts, then returns the attempt's number."""
    if attempt <= on_attempts:
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
    return attempt


def leave_when_asked(*, attempt: int) -> int:
    """The first attempt is sent SIGTERM and leaves as training does. Returns the attempt that was not."""
    with preemption_notice() as notice:
        if attempt == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if notice:
            raise Preempted(f"{notice.signal_name} came")
    return attempt


def wait_to_be_asked(*, attempt: int, folder: str) -> int:
    """The first attempt notes itself and waits for a signal to leave. Returns the attempt that does not wait."""
    if attempt > 1:
        return attempt
    with preemption_notice() as notice:
        note_process(folder, str(attempt))
        while not notice:
            time.sleep(0.02)
        raise Preempted(f"{notice.signal_name} came")


def note_and_wait(*, attempt: int, folder: str, name: str, until: str | None = None) -> str:
    """Write the process's id to `folder/name`, wait for the file `until`, and return the id of the Ray node, if any."""
    note_process(folder, name)
    while until is not None and not (Path(folder) / until).exists():
        time.sleep(0.02)
    return _ray_node()


def _ray_node() -> str:
    if "ray" not in sys.modules:
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def all_reduce(*, attempt: int, member: Member, folder: str, dies: int | None = None) -> dict[str, Any]:
    """Sum the ranks over the gang by gloo. On the first attempt the member of rank `dies` is killed in the midst of it."""
    import torch
    import torch.distributed as dist

    note_process(folder, f"{attempt}-{member.rank}")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"tcp://{member.rendezvous}", rank=member.rank, world_size=member.world_size
    )
    try:
        total = torch.tensor(float(member.rank))
        dist.all_reduce(total)
        if attempt == 1 and member.rank == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
        return {"sum": total.item(), "world_size": member.world_size, "attempt": attempt}
    finally:
        dist.destroy_process_group()


def start_children(*, attempt: int, folder: str, until: str) -> None:
    """Start a child in this group and one in a session of its own, as torchrun does; note both, and wait."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    for name, apart in (("near", False), ("apart", True)):
        note_process(folder, name, subprocess.Popen(sleep, start_new_session=apart).pid)
    note_and_wait(attempt=attempt, folder=folder, name="worker", until=until)


def note_process(folder: str, name: str, pid: int | None = None) -> None:
    """Write a process's id, by default this one's, to `folder/name`."""
    partial = Path(folder) / f".{name}"
    partial.write_text(str(os.getpid() if pid is None else pid))
    partial.rename(Path(folder) / name)
