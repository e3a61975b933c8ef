"""`isoloss status` in a terminal: the table of all runs, and one run's page."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from analysis.forecasts.law_so_far import Projection
from sweeps.watching.colours import STATE_COLOURS
from sweeps.watching.run_detail import RunDetail
from sweeps.watching.status import RunState, SweepStatus
from sweeps.words import count, duration, human

#: Losses of a run's journal that its page shows, the last ones.
SHOWN_POINTS = 5


def status_table(status: SweepStatus) -> Group:
    """All runs, and above them how many there are of each state, and what the law so far stands on."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "tokens", "loss", "final (95 %)", ""):
        numbers = heading in ("tokens", "loss", "final (95 %)")
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for run in status.runs:
        tokens = "" if run.tokens is None else human(run.tokens)
        loss = _loss(run)
        state = Text(run.state, style=STATE_COLOURS[run.state])
        table.add_row(Text(run.name), state, tokens, loss, _projected(run), _why(run))
    counts = ", ".join(f"{number} {state}" for state, number in status.counts.items())
    trunks = sum(run.is_trunk for run in status.runs)
    suspect = sum(bool(run.suspicions) for run in status.runs)
    shared = f" and {count(trunks, 'trunk')} that they share" if trunks else ""
    launcher = f"launched by {status.launcher}" if status.launcher else "no launcher is at work"
    notes = [f"{status.sweep}: {count(len(status.runs) - trunks, 'run')}{shared}: {counts}; {launcher}"]
    notes += (
        [f"{count(suspect, 'finished run')} {'is' if suspect == 1 else 'are'} suspect: see beside them"]
        if suspect
        else []
    )
    notes += [status.law + (f": {status.law_missing}" if status.law_missing else "")] if status.law else []
    return Group(*(Text(note, style="" if number else "bold") for number, note in enumerate(notes)), table)


def _loss(run: RunState) -> str:
    """A finished run's validation loss; `train 3.0123` of a trunk, which is never validated, and of a run on its way."""
    if run.loss is None:
        return ""
    is_training = run.is_trunk or run.state not in ("finished", "diverged")
    return f"{'train ' if is_training else ''}{run.loss:.4f}"


def _projected(run: RunState) -> str:
    if run.projected is None:
        return ""
    return f"→ {Projection(loss=run.projected.loss, plus_minus=run.projected.plus_minus)}"


def _why(run: RunState) -> Text:
    said = Text(run.note or "")
    if run.suspicions:
        said.append(("; " if run.note else "") + f"suspect: {'; '.join(run.suspicions)}", style="yellow")
    return said


def run_page(detail: RunDetail) -> Group:
    """One run: what it is, how it stands, who worked at it, what it left."""
    run = detail.run
    rows = [
        ("state", Text(run.state, style=STATE_COLOURS[run.state])),
        ("why", _why(run)),
        ("key", Text(run.key)),
        ("model", Text(detail.model)),
        ("tokens", Text(_of(run.tokens, detail.planned_tokens))),
        ("loss", Text(_loss(run))),
        ("final (95 %)", Text(_projected(run))),
        ("folder", Text(f"{detail.folder}, {human(detail.disk_bytes)}B")),
        ("checkpoints", Text(_checkpoints(detail))),
    ]
    for attempt in detail.attempts:
        rows.append((f"attempt {attempt.number}", Text(f"{attempt.who}: {attempt.end}")))
    for point in detail.last_points[-SHOWN_POINTS:]:
        loss = "" if point.loss is None else f"loss {point.loss:.4f}"
        rows.append((f"step {point.step:,}", Text(f"{human(point.tokens)} tokens, {loss}")))
    page = Table(box=None, pad_edge=False, show_header=False)
    page.add_column(style="dim", no_wrap=True)
    page.add_column(overflow="fold")
    for name, value in rows:
        if value.plain:
            page.add_row(name, value)
    return Group(Text(run.name, style="bold"), page)


def _of(tokens: int | None, planned: int | None) -> str:
    done = "" if tokens is None else f"{tokens:,}"
    return f"{done or 0} of {planned:,}" if planned is not None else done


def _checkpoints(detail: RunDetail) -> str:
    if detail.checkpoint_steps and detail.checkpoint_age_seconds is not None:
        steps = ", ".join(f"{step:,}" for step in detail.checkpoint_steps)
        return f"at steps {steps}; the last {duration(detail.checkpoint_age_seconds)} ago"
    return "none"
