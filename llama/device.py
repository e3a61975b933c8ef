"""The device at hand: which one a process trains on, how it is set up, and its peak speed where that is known."""

from __future__ import annotations

import os

import torch

from llama.accelerators import named_by_driver
from llama.processor import processor_name


def pick_device() -> torch.device:
    """The GPU that the scheduler left visible to this process, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a person calls the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def peak_flops_per_second(device: torch.device, dtype: str) -> float | None:
    """Peak dense FLOP/s, or None where it isn't known: an unknown device has no MFU."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    known = named_by_driver(device_name(device))
    return None if known is None else known.peak_bf16_flops


def make_deterministic(device: torch.device) -> None:
    """Bit-identical resume on one kind of device: no algorithm may be chosen by timing or by atomics."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Every torch.empty would be filled with NaN first. What no algorithm reads need not be written: bits stay the same.
    # On a CPU a step gains nothing that shows (width 64: 101 against 104 ms of processor time, amid noise of as much); on a GPU
    # each fill is one more kernel, which was not measured.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
