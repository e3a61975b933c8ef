"""What the tests have workers do: importable by name, as every task's function must be."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

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


def note_and_wait(*, attempt: int, folder: str, name: str, until: str | None = None) -> str:
    """Write the process's id to `folder/name`, wait for the file `until`, and return the id of the Ray node, if any."""
    partial = Path(folder) / f".{name}"
    partial.write_text(str(os.getpid()))
    partial.rename(Path(folder) / name)
    while until is not None and not (Path(folder) / until).exists():
        time.sleep(0.02)
    return _ray_node()


def _ray_node() -> str:
    if "ray" not in sys.modules:
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id())
