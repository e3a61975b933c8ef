"""In which colour a terminal shows each state of a run, in the live table as in `isoloss status`."""

from __future__ import annotations

from collections.abc import Mapping

STATE_COLOURS: Mapping[str, str] = {
    "finished": "green",
    "running": "cyan",
    "retrying": "yellow",
    "paused": "yellow",
    "ready": "dim",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "diverged": "red",
    "blocked": "yellow",
    "cancelled": "dim",
}
