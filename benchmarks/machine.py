"""What a figure was measured on: the `machine` and `versions` of every benchmark's document."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from llama.processor import processor_name


def machine() -> dict[str, Any]:
    """System, processor, cores, and how busy they are now: runnable processes, averaged over the last minute."""
    return {
        "system": platform.system(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(*packages: str) -> dict[str, str | None]:
    """Of Python and of each package; None where it is not installed."""
    return {"python": platform.python_version(), **{name: installed(name) for name in packages}}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
