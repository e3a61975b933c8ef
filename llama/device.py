"""The device at hand: which one a process trains on, how it is set up, and its peak speed where that is known."""

from __future__ import annotations

import os

import torch

from llama.processor import processor_name

#: Dense bf16 FLOP/s from NVIDIA's data sheets, by the name that the driver reports, in full: a slice or a cousin of a card has
#: another name, and another peak.
PEAK_BF16_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}


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
    return PEAK_BF16_FLOPS.get(device_name(device))


def make_deterministic(device: torch.device) -> None:
    """Bit-identical resume on one kind of device: no algorithm may be chosen by timing or by atomics."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Every torch.empty would be filled with NaN first. What no algorithm reads need not be written: bits stay the same.
    # On a CPU a step gains nothing that shows (width 64: 101 against 104 ms of processor time, amid noise of as much); on a GPU
    # each fill is one more kernel, which was not measured.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
