"""A Ray of one node for one driver, on loopback, that can't outlive it. Run as `python -m cluster.local_ray`.

`ray.init()` would do, but for these (Ray 2.60, two cores):

- It takes 3.5 to 7 s. Half goes to the dashboard and autoscaler processes, which nobody here asks for, and up to 4 s to
  waiting for port 52365, when another Ray on the machine has it. This head takes 1.5 s.
- It listens on the machine's outward address, even when told 127.0.0.1.
- When the driver is killed, Ray's agents stay for a minute, and what workers started in sessions of their own for ever.

So this small process starts the head and keeps it: it adopts every orphan below it and waits for its standard input to
close, which the kernel does however the driver ends. Then it kills all that stands below it and removes Ray's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.worker import adopt_orphans

LOOPBACK = "127.0.0.1"
#: Ray adds some 60 characters to the folder, and a unix socket's path ends at 107.
_LONGEST_FOLDER = 40


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """What the driver asks of its head."""

    cpus: int
    gpus: int
    object_store_bytes: int


def main() -> None:
    """Start the head, say its address, wait for the driver's end, and clear up."""
    settings = HeadSettings(**json.loads(sys.argv[1]))
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="isoloss-ray-", dir=_short_folder()))
    try:
        address = _start_head(settings, folder)
        print(json.dumps({"address": address}), flush=True)
        sys.stdin.buffer.read()
    finally:
        _kill_all_below()
        shutil.rmtree(folder, ignore_errors=True)


def command(settings: HeadSettings) -> list[str]:
    return [sys.executable, "-P", "-m", "cluster.local_ray", json.dumps(asdict(settings))]


def _short_folder() -> str:
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= _LONGEST_FOLDER else "/tmp"


def _start_head(settings: HeadSettings, folder: Path) -> str:
    """Ray's own `Node`, which `ray.init` and `ray start` also use, less what a lone driver has no use for."""
    from ray._private import ray_constants
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    ray_constants.ENABLE_RAY_CLUSTER = False  # or it swaps 127.0.0.1 for the machine's outward address

    class Head(Node):  # type: ignore[misc]
        def start_api_server(self, **_: Any) -> None:
            """No dashboard: its process takes over a second to start, and serves nothing here."""

    head = Head(
        RayParams(
            node_ip_address=LOOPBACK,
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            object_store_memory=settings.object_store_bytes,
            temp_dir=str(folder),
            include_dashboard=False,
            no_monitor=True,
            include_log_monitor=False,
            dashboard_agent_listen_port=0,
        ),
        head=True,
        shutdown_at_exit=False,
        spawn_reaper=True,
        ray_init_cluster=True,
    )
    return str(head.address)


def _kill_all_below() -> None:
    """Kill every descendant. Those that a killed one leaves come to us, so this ends when there is none."""
    import psutil  # bundled with Ray, on the path once it is imported

    own = psutil.Process()
    while below := [child for child in own.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]:
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(below, timeout=1)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    # The main thread stays: Ray's processes die with the thread that started them.
    assert threading.current_thread() is threading.main_thread()
    main()
