"""The table of `isoloss status`."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sweeps.status import SweepStatus

STATE_COLOURS = {
    "finished": "green",
    "running": "cyan",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "diverged": "red",
    "blocked": "yellow",
    "paused": "yellow",
    "cancelled": "dim",
}


def status_table(status: SweepStatus) -> Group:
    """The table of `isoloss status`."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "tokens", "loss", ""):
        table.add_column(heading, justify="right" if heading in ("tokens", "loss") else "left", overflow="fold")
    for run in status.runs:
        tokens = "" if run.tokens is None else f"{run.tokens:,}"
        loss = "" if run.loss is None else f"{run.loss:.4f}"
        state = Text(run.state, style=STATE_COLOURS[run.state])
        table.add_row(Text(run.name), state, tokens, loss, Text(run.note or ""))
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    trunks = sum(run.is_trunk for run in status.runs)
    shared = f" and {trunks} trunks that they share" if trunks else ""
    launcher = f"launched by {status.launcher}" if status.launcher else "no launcher is at work"
    return Group(
        Text(f"{status.sweep}: {len(status.runs) - trunks} runs{shared}: {counts}; {launcher}", style="bold"), table
    )
