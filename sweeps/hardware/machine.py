"""The machine at hand, by what decides speeds: its kind of device, its model, and torch's version. Found without torch."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from cluster.machine import visible_gpus
from llama.config import Device
from llama.processor import has_bf16_tiles, processor_name


class Machine(NamedTuple):
    """Where runs are timed."""

    device: Device
    name: str
    """The CPU's or the GPU's model, as its maker calls it."""
    torch_version: str
    has_bf16_tiles: bool = False
    """Whether a CPU multiplies bfloat16 matrices in hardware (Intel AMX)."""


def this_machine() -> Machine:
    """The machine at hand, found without importing torch: a GPU counts if torch can use one and one is visible."""
    torch_version = metadata.version("torch")
    if visible_gpus() and not torch_version.endswith("+cpu"):
        return Machine("cuda", _gpu_model(), torch_version)
    return Machine("cpu", processor_name(), torch_version, has_bf16_tiles())


def _gpu_model() -> str:
    """The first NVIDIA GPU's model; a machine's GPUs are taken to be alike."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.split(":", 1)[1].strip()
    return "NVIDIA GPU"
