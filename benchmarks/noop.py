"""A task that does nothing: workers import it by name, which they can't from a module that runs as `__main__`."""

from __future__ import annotations


def nothing(*, attempt: int) -> None:
    """A segment's call, less the segment."""
