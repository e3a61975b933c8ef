"""This machine's processor, as Linux describes it and as a person calls it. No torch: planning asks too."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    return _field("model name") or platform.processor() or platform.machine()


def has_bf16_tiles() -> bool:
    """Whether it multiplies bfloat16 matrices in hardware (Intel AMX)."""
    return "amx_bf16" in (_field("flags") or "").split()


def _field(name: str) -> str | None:
    """A field of the first core; None where there is none, or no Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return None
