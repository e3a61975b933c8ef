"""What this machine offers: cores, counting a container's quota, and GPUs. No torch: asked before anything heavy loads."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_DEVICES = Path("/dev")


def available_cpus() -> int:
    """Whole cores that this process may keep busy: its affinity mask, cut down to the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _cgroup_quota() -> float | None:
    """Cores' worth of CPU time that the cgroup may use, version 2 or 1; None without a limit."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (_CGROUP / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def visible_gpus() -> list[str]:
    """NVIDIA GPUs that a process started from here would see, as `CUDA_VISIBLE_DEVICES` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    devices = [device for device in _DEVICES.glob("nvidia*") if device.name.removeprefix("nvidia").isdigit()]
    return [str(index) for index in range(len(devices))]  # a container's GPUs are numbered from 0, whatever their names
