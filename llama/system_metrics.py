"""What a run's process and its machine are doing: processor, memory, disk, and the GPU where there is one.

Sampled as a window of steps is journalled, while nothing is timed: a sample is a few reads of /proc and, on a GPU, of NVML,
which asks the driver and waits for no kernel. The first comes with an attempt's first window, the next ones ever more seldom,
so that a run of a month has some hundred. No network is asked for anything.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import torch

from llama.metric_names import (
    CPU_PERCENT,
    DISK_AVAILABLE_MEGABYTES,
    DISK_PERCENT,
    GPU_MEMORY_MEGABYTES,
    GPU_MEMORY_PERCENT,
    GPU_PERCENT,
    GPU_POWER_WATTS,
    MEMORY_MEGABYTES,
    MEMORY_PERCENT,
    PROCESS_CPU_PERCENT,
    PROCESS_MEMORY_MEGABYTES,
)

#: From one sample to the next: so many seconds, or this share of the attempt's time so far where that is longer.
LEAST_SECONDS = 10.0
SHARE_OF_TIME = 0.01


class SystemMetrics:
    """Samples of one attempt."""

    def __init__(self, run_folder: Path, device: torch.device):
        """`run_folder` says which disk matters. Percentages of time count from now to the first sample."""
        self._folder, self._device = run_folder, device
        self._process = psutil.Process()
        self._process.cpu_percent()
        psutil.cpu_percent()
        self._started = self._due = time.monotonic()
        self._has_nvml = device.type == "cuda"

    def sample_if_due(self) -> dict[str, float | None]:
        """Values by metric name; none between two samples."""
        now = time.monotonic()
        if now < self._due:
            return {}
        self._due = now + max(LEAST_SECONDS, SHARE_OF_TIME * (now - self._started))
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._folder))
        return {
            CPU_PERCENT: psutil.cpu_percent(),
            MEMORY_MEGABYTES: memory.used / 1e6,
            MEMORY_PERCENT: memory.percent,
            DISK_PERCENT: disk.percent,
            DISK_AVAILABLE_MEGABYTES: disk.free / 1e6,
            PROCESS_CPU_PERCENT: self._process.cpu_percent(),
            PROCESS_MEMORY_MEGABYTES: self._process.memory_info().rss / 1e6,
            **self._gpu(),
        }

    def _gpu(self) -> dict[str, float | None]:
        """Of the GPU that the run trains on: what NVML does not tell is absent."""
        if self._device.type != "cuda":
            return {}
        free_bytes, total_bytes = torch.cuda.mem_get_info(self._device)
        values: dict[str, float | None] = {
            GPU_MEMORY_MEGABYTES: (total_bytes - free_bytes) / 1e6,
            GPU_MEMORY_PERCENT: 100 * (1 - free_bytes / total_bytes),
        }
        if self._has_nvml:
            try:
                values[GPU_PERCENT] = float(torch.cuda.utilization(self._device))
                values[GPU_POWER_WATTS] = torch.cuda.power_draw(self._device) / 1000
            except Exception:  # no nvidia-ml-py, a driver without NVML, a slice of a GPU: each with an error of its own
                self._has_nvml = False
        return values
