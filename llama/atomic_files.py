"""Files that a reader sees old or new but never half, and that a power cut leaves so."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace `path` by `text` so that a reader sees the old or the new whole; `durable` also survives a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
