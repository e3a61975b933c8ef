"""The live table of a launch, drawn from plain rows: what fits on the screen, the busiest runs first, and how many more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster.states import State
from sweeps.watching.colours import STATE_COLOURS
from sweeps.words import human

#: States in the order of the table. Runs that ended are counted, not listed.
LISTED = (
    State.RUNNING,
    State.RETRYING,
    State.PAUSED,
    State.READY,
    State.WAITING,
    State.FAILED,
    State.BLOCKED,
    State.CANCELLED,
)
#: How each is counted, where the state's own name doesn't say it.
COUNTED = {
    State.READY: "waiting for room",
    State.WAITING: "waiting for their trunk",
    State.BLOCKED: "blocked by a failed trunk",
}
NAME_WIDTH = 26
NUMBERS_WIDTH, PROJECTED_WIDTH = 25, 15
"""Of the columns beside the name and the progress, with the gaps before them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run that has not ended."""

    name: str
    is_trunk: bool
    state: State
    progress: str
    """Steps of a running one, the reason of another."""
    tokens: int | None = None
    loss: float | None = None
    """In training, as `isoloss status` has it too: none of these runs was validated yet."""
    tokens_per_second: float | None = None
    projected: str = ""


def counts_line(rows: Sequence[Row]) -> str:
    """`2 running, 1 retrying, 8 waiting for room, 22 waiting for their trunk`."""
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{counts[state]} {COUNTED.get(state, state)}" for state in LISTED if counts[state])


def live_table(notes: Sequence[Text], rows: Sequence[Row], *, width: int, height: int) -> Group:
    """`notes`, the counts, and as many rows as the screen has room for: running before waiting, trunks before branches."""
    order = {state: rank for rank, state in enumerate(LISTED)}
    listed = sorted(rows, key=lambda row: (order[row.state], not row.is_trunk))
    room = max(1, height - len(notes) - 4)  # the counts, the headings, how many more, and the cursor's line
    shown, rest = listed[:room], listed[room:]
    name_width = min(NAME_WIDTH, max((len(row.name) for row in shown), default=0))
    projected_width = PROJECTED_WIDTH if any(row.projected for row in shown) else 0
    progress_width = max(12, width - name_width - NUMBERS_WIDTH - projected_width)
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True, max_width=name_width, overflow="ellipsis")
    table.add_column("", no_wrap=True, max_width=progress_width, overflow="ellipsis")
    for heading in ("tokens", "train", "tokens/s", *(["final (95 %)"] if projected_width else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(
            Text(row.name),
            Text(row.progress, style=STATE_COLOURS[row.state]),
            "" if row.tokens is None else human(row.tokens),
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.tokens_per_second is None else human(row.tokens_per_second),
            *([f"→ {row.projected}" if row.projected else ""] if projected_width else []),
        )
    more = [Text(f"and {len(rest)} more: {counts_line(rest)}", style="dim")] if rest else []
    return Group(*notes, Text(counts_line(rows)), table, *more)
