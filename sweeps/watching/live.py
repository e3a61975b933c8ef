"""What a person watches while a launch runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.states import Event, State
from llama.errors import UserError
from llama.metric_names import VAL_LOSS
from llama.records import Heartbeat, read_done, read_heartbeat
from sweeps.control import Control, read_control
from sweeps.designs.segments import Segment
from sweeps.watching.law_follower import LawFollower
from sweeps.watching.live_table import Row, counts_line, live_table
from sweeps.words import count, duration, human

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 20.0
#: Running branches whose projected loss a plain line tells.
PLAIN_PROJECTIONS = 4

_ENDED = (State.DONE, State.SKIPPED)


class LiveView:
    """Follows a launch: fed with the supervisor's events, it reads heartbeats for what happens inside a segment."""

    def __init__(
        self,
        segments: Sequence[Segment],
        names: dict[str, str],
        estimated_seconds: dict[str, float],
        runs_folder: Path,
        sweep_folder: Path,
        *,
        trouble: Callable[[], str | None],
        say: Callable[[str], None],
    ):
        self._segments = {segment.id: segment for segment in segments}
        self._names, self._runs_folder, self._trouble, self._say = names, runs_folder, trouble, say
        self._sweep_folder = sweep_folder
        self._estimated = estimated_seconds
        self._of_run: dict[str, list[Segment]] = {}
        for segment in segments:
            self._of_run.setdefault(segment.run_key, []).append(segment)
        self._states: dict[str, State] = dict.fromkeys(self._segments, State.WAITING)
        self._reasons: dict[str, str] = {}
        self._law = LawFollower(sweep_folder, say=self.announce)
        self._seen: Mapping[str, Heartbeat] = {}
        self._law_said = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._live = Live(console=Console(), auto_refresh=False, transient=True) if sys.stdout.isatty() else None
        self._thread = threading.Thread(target=self._refresh, daemon=True, name="live-view")

    def __enter__(self) -> LiveView:
        self._law.__enter__()
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._law.__exit__(kind, error, trace)
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
            self._states[segment.id] = event.state
            if event.reason is not None:
                again = f"attempt {event.attempt + 1} after " if event.state is State.RETRYING else ""
                self._reasons[segment.id] = again + event.reason
        if event.state is State.DONE and segment.ends_run:
            self.announce(self._finished_line(segment, name))
            self._law.run_ended()
        elif event.state is State.RETRYING:
            self.announce(f"{name} is tried again: {event.reason}")
        elif event.state is State.PAUSED and event.outcome is not None:
            self.announce(f"{name} has left at a checkpoint: paused")
        elif event.state is State.FAILED:  # what it blocks is told with the launch's result
            self.announce(f"{name} failed: {event.reason}")

    def announce(self, line: str) -> None:
        """A line of its own, above the table where there is one."""
        if self._live is None:
            self._say(line)
        else:
            self._live.console.print(Text(line))

    def _finished_line(self, segment: Segment, name: str) -> str:
        """With what was projected before the run's own loss was known."""
        done = read_done(self._runs_folder / segment.run_key)
        loss = done.metrics.get(VAL_LOSS) if done is not None else None
        tokens = segment.end_step * segment.config.batch_tokens
        shown = "" if loss is None else f", loss {loss:.4f}"
        said = self._law.outlook.projections.get(segment.run_key)
        if said is not None and loss is not None:
            off = "" if abs(loss - said.loss) <= said.plus_minus else ": off it"
            shown += f" (the law had said {said}{off})"
        return f"{name} finished: {tokens:,} tokens{shown}  ({self._progress(self._seen)})"

    def _beats(self) -> dict[str, Heartbeat]:
        """Of the running segments that have given one, by id."""
        with self._lock:
            running = [id for id, state in self._states.items() if state is State.RUNNING]
        beats = {id: read_heartbeat(self._runs_folder / self._segments[id].run_key) for id in running}
        return {
            id: beat
            for id, beat in beats.items()
            if beat is not None and beat.until_step == self._segments[id].end_step
        }

    def _progress(self, beats: Mapping[str, Heartbeat]) -> str:
        """Runs that ended, and the time that is left if the rest goes as the estimates and the past say. `beats` may be those
        of a while ago.
        """
        with self._lock:
            ended = {id for id, state in self._states.items() if state in _ENDED}
            cancelled = {id for id, state in self._states.items() if state is State.CANCELLED}
            runs_on = State.RUNNING in self._states.values()
        runs = [segment for segment in self._segments.values() if segment.ends_run and segment.id not in cancelled]
        total = sum(seconds for id, seconds in self._estimated.items() if id not in cancelled)
        done = sum(self._estimated[id] for id in ended)
        working = {id: self._share(self._segments[id], beat) for id, beat in beats.items() if id not in ended}
        done += sum(self._estimated[id] * share for id, share in working.items())
        elapsed = time.monotonic() - self._started
        share = done / total if total else 1.0
        eta = f", {duration(max(0.0, elapsed * (1 - share) / share))} to go" if share > 0.02 and runs_on else ""
        finished = sum(segment.id in ended for segment in runs)
        return f"{share:.0%} of the training, {finished} of {count(len(runs), 'run')}; {duration(elapsed)} so far{eta}"

    def _share(self, segment: Segment, beat: Heartbeat) -> float:
        return max(0.0, (beat.step - segment.start_step) / (segment.end_step - segment.start_step))

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS if self._live is not None else PLAIN_SECONDS):
            beats = self._seen = self._beats()
            if self._live is None:
                self._say(f"{self._progress(beats)}; {counts_line(self._rows(beats))}")
                self._say_projections(beats)
                continue
            notes = [Text(self._progress(beats), style="bold")]
            notes += [Text(said) for said in [str(self._law.outlook)] if said]
            notes += [Text(trouble, style="yellow") for trouble in [self._trouble()] if trouble]
            size = self._live.console.size
            self._live.update(live_table(notes, self._rows(beats), width=size.width, height=size.height), refresh=True)

    def _say_projections(self, beats: Mapping[str, Heartbeat]) -> None:
        """Once a law: the projected losses of running branches."""
        outlook = self._law.outlook
        if outlook.law is None or outlook.law.n_runs == self._law_said:
            return
        running = [self._segments[id].run_key for id in beats if self._segments[id].run_key in outlook.projections]
        if running:
            self._law_said = outlook.law.n_runs
            told = ", ".join(f"{self._names[key]} → {outlook.projections[key]}" for key in running[:PLAIN_PROJECTIONS])
            more = f", and {len(running) - PLAIN_PROJECTIONS} more" if len(running) > PLAIN_PROJECTIONS else ""
            self._say(f"{outlook.law}; final losses to come (95 %): {told}{more}")

    def _rows(self, beats: Mapping[str, Heartbeat]) -> list[Row]:
        """One row a run that has not ended, from the first of its segments that has not."""
        try:
            control = read_control(self._sweep_folder)
        except UserError:  # the launcher says it
            control = Control()
        with self._lock:
            states, reasons = dict(self._states), dict(self._reasons)
        rows = []
        for key, segments in self._of_run.items():
            current = next((segment for segment in segments if states[segment.id] not in _ENDED), None)
            if current is not None:
                rows.append(self._row(key, current, states, reasons, beats.get(current.id), control))
        return rows

    def _row(
        self,
        key: str,
        segment: Segment,
        states: Mapping[str, State],
        reasons: Mapping[str, str],
        beat: Heartbeat | None,
        control: Control,
    ) -> Row:
        state = states[segment.id]
        if state in (State.READY, State.WAITING) and control.cancels(key):
            state = State.CANCELLED
        elif state in (State.READY, State.WAITING, State.RETRYING) and control.pauses(key):
            state = State.PAUSED
        end = self._of_run[key][-1].end_step
        progress: str = state
        if state is State.RUNNING:
            step = segment.start_step if beat is None else beat.step
            progress = f"{step / end:4.0%}  {step:,}/{end:,}"
        elif state in (State.RETRYING, State.FAILED, State.BLOCKED) and segment.id in reasons:
            progress = f"{state}: {reasons[segment.id]}"
        elif state is State.PAUSED:
            progress = f"paused until isoloss resume {self._sweep_folder.name}" + (
                "" if control.paused else f" --run {self._names[key]}"
            )
        elif state is State.READY:
            progress = "waits for room"
        elif state is State.WAITING and not segment.config.is_trunk:
            progress = f"waits for trunk at {human(segment.start_step * segment.config.batch_tokens)}"
        projected = self._law.outlook.projections.get(key)
        return Row(
            name=self._names[key],
            is_trunk=segment.config.is_trunk,
            state=state,
            progress=progress,
            tokens=None if beat is None else beat.tokens,
            loss=None if beat is None else beat.loss,
            tokens_per_second=None if beat is None else beat.tokens_per_second,
            projected="" if projected is None else str(projected),
        )
