"""What a person watches: a live table in a terminal, plain lines elsewhere; and the table of `isoloss status`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.supervisor import Event, State
from llama.metric_names import VAL_LOSS
from llama.records import Heartbeat, read_done, read_heartbeat
from sweeps.plan_table import duration
from sweeps.segments import Segment
from sweeps.status import SweepStatus

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 20.0

STATE_COLOURS = {
    "finished": "green",
    "running": "cyan",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "diverged": "red",
    "blocked": "yellow",
}


class LiveView:
    """Follows a launch: fed with the supervisor's events, it reads heartbeats for what happens inside a segment."""

    def __init__(
        self,
        segments: Sequence[Segment],
        names: dict[str, str],
        estimated_seconds: dict[str, float],
        runs_folder: Path,
        *,
        trouble: Callable[[], str | None],
        say: Callable[[str], None],
    ):
        self._segments = {segment.id: segment for segment in segments}
        self._names, self._runs_folder, self._trouble, self._say = names, runs_folder, trouble, say
        self._estimated = estimated_seconds
        self._running: dict[str, Segment] = {}
        self._ended: set[str] = set()
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._live = Live(console=Console(), auto_refresh=False, transient=True) if sys.stdout.isatty() else None
        self._thread = threading.Thread(target=self._refresh, daemon=True, name="live-view")

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """One change of a task's state."""
        segment = self._segments.get(event.task.id)
        if segment is None:
            return
        name = self._names[segment.run_key]
        with self._lock:
            if event.state is State.RUNNING:
                self._running[event.task.id] = segment
                return
            self._running.pop(event.task.id, None)
            if event.state in (State.DONE, State.SKIPPED):
                self._ended.add(event.task.id)
        if event.state is State.DONE and segment.ends_run:
            self._announce(self._finished_line(segment, name))
        elif event.state is State.RETRYING:
            self._announce(f"{name} is tried again: {event.reason}")
        elif event.state is State.FAILED:  # what it blocks is told with the launch's result
            self._announce(f"{name} failed: {event.reason}")

    def _announce(self, line: str) -> None:
        if self._live is None:
            self._say(line)
        else:
            self._live.console.print(Text(line))

    def _finished_line(self, segment: Segment, name: str) -> str:
        done = read_done(self._runs_folder / segment.run_key)
        loss = done.metrics.get(VAL_LOSS) if done is not None else None
        tokens = segment.end_step * segment.config.batch_tokens
        shown = "" if loss is None else f", loss {loss:.4f}"
        return f"{name} finished: {tokens:,} tokens{shown}  ({self._progress()})"

    def _progress(self) -> str:
        """Runs that ended, and the time that is left if the rest goes as the estimates and the past say."""
        with self._lock:
            runs = [segment for segment in self._segments.values() if segment.ends_run]
            ended = sum(segment.id in self._ended for segment in runs)
            total = sum(self._estimated.values())
            done = sum(self._estimated[id] for id in self._ended)
            running = dict(self._running)
        done += sum(self._estimated[id] * self._share(segment) for id, segment in running.items())
        elapsed = time.monotonic() - self._started
        share = done / total if total else 1.0
        eta = f", {duration(max(0.0, elapsed * (1 - share) / share))} to go" if share > 0.02 else ""
        return f"{share:.0%} of the training, {ended} of {len(runs)} runs; {duration(elapsed)} so far{eta}"

    def _heartbeat(self, segment: Segment) -> Heartbeat | None:
        beat = read_heartbeat(self._runs_folder / segment.run_key)
        return beat if beat is not None and beat.until_step == segment.end_step else None

    def _share(self, segment: Segment) -> float:
        beat = self._heartbeat(segment)
        if beat is None:
            return 0.0
        return max(0.0, (beat.step - segment.start_step) / (segment.end_step - segment.start_step))

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS if self._live is not None else PLAIN_SECONDS):
            if self._live is not None:
                self._live.update(self._table(), refresh=True)
            else:
                self._say(self._progress())

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "step", "tokens", "loss", "tokens/s"):
            table.add_column(heading, justify="left" if heading == "run" else "right")
        with self._lock:
            running = list(self._running.values())
        for segment in running:
            beat = self._heartbeat(segment)
            name = self._names[segment.run_key]
            if beat is None:
                table.add_row(name, f"{segment.start_step:,} / {segment.end_step:,}", "", "", "")
            else:
                loss = "" if beat.loss is None else f"{beat.loss:.4f}"
                speed = "" if beat.tokens_per_second is None else f"{beat.tokens_per_second:,.0f}"
                table.add_row(name, f"{beat.step:,} / {segment.end_step:,}", f"{beat.tokens:,}", loss, speed)
        trouble = self._trouble()
        notes = [Text(self._progress(), style="bold")] + ([Text(trouble, style="yellow")] if trouble else [])
        return Group(*notes, table)


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
