"""How a launch heeds what people ask of its sweep: it looks when its supervisor does, and tells of every change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.states import Orders, State
from llama.errors import UserError
from sweeps.control import Control, cancelled_segments, read_control
from sweeps.designs.segments import Segment
from sweeps.words import NAMED_IN_A_COMMAND, count

_LOOK_SECONDS = 2.0


class Heeding:
    """What is asked of the sweep in `folder` now, in the words of the supervisor."""

    def __init__(
        self, folder: Path, segments: Sequence[Segment], names: Mapping[str, str], *, say: Callable[[str], None]
    ) -> None:
        """`names` of the runs, by key; `segments` are those to run, each after all that it needs."""
        self._folder, self._segments, self._names, self._say = folder, segments, names, say
        self._known = Control()
        self._trouble: str | None = None
        self._said_waits = 0

    @contextmanager
    def saying(self, say: Callable[[str], None]) -> Iterator[None]:
        """What is told inside goes there, as to a live table that stands in a terminal."""
        before, self._say = self._say, say
        try:
            yield
        finally:
            self._say = before

    def orders(self, states: Mapping[str, State]) -> Orders:
        """For segments, which the supervisor has in these states: when nothing but paused ones is left, that is told."""
        control = self._control()
        self._tell_who_waits(states)
        return Orders(
            paused=frozenset(segment.id for segment in self._segments if control.pauses(segment.run_key)),
            cancelled=cancelled_segments(control, self._segments),
        )

    def orders_for(self, task_id: str) -> Orders:
        """For a task that is of the whole sweep."""
        control = self._control()
        return Orders(
            paused=frozenset({task_id} if control.paused else ()),
            cancelled=frozenset({task_id} if control.cancelled else ()),
        )

    def wait_while_paused(self) -> None:
        """Return once the sweep as a whole is not paused, or is cancelled."""
        while self._control().paused:
            time.sleep(_LOOK_SECONDS)

    def _tell_who_waits(self, states: Mapping[str, State]) -> None:
        going = {State.READY, State.RUNNING, State.RETRYING}
        paused = {one.run_key for one in self._segments if states.get(one.id) is State.PAUSED}
        waits = 0 if going.intersection(states.values()) else len(paused)
        if waits and waits != self._said_waits:
            names = self._called(paused) if waits <= NAMED_IN_A_COMMAND else ["NAME"]
            named = "" if self._known.paused else "".join(f" --run {name}" for name in names)
            paused_runs = f"{count(waits, 'run')} {'is' if waits == 1 else 'are'} paused"
            resume = f"isoloss resume {self._folder.name}{named}"
            self._say(f"waits: {paused_runs} and nothing else is left, until `{resume}`")
        self._said_waits = waits

    def _control(self) -> Control:
        """What holds now. A file that can't be read changes nothing: it must not end a launch of weeks."""
        try:
            control, trouble = read_control(self._folder), None
        except UserError as error:
            control, trouble = self._known, str(error)
        if trouble is not None and trouble != self._trouble:
            self._say(f"what was asked last can't be read, and is passed over: {trouble}")
        self._trouble = trouble
        if control != self._known:
            for line in self._changes(self._known, control):
                self._say(line)
            self._known = control
        return control

    def _changes(self, before: Control, now: Control) -> list[str]:
        sweep = self._folder.name
        lines = []
        if now.paused and not before.paused:
            lines.append(f"{sweep} is paused: what runs leaves at a checkpoint, until `isoloss resume {sweep}`")
        if now.cancelled and not before.cancelled:
            lines.append(f"{sweep} is cancelled: no launch runs it until `isoloss resume {sweep}`")
        if (before.paused or before.cancelled) and not (now.paused or now.cancelled):
            lines.append(f"{sweep} is resumed")
        paused, cancelled = now.paused_runs, now.cancelled_runs
        free_again = (before.paused_runs | before.cancelled_runs) - paused - cancelled
        for word, keys in (
            ("paused", paused - before.paused_runs),
            ("cancelled", cancelled - before.cancelled_runs),
            ("resumed", free_again),
        ):
            if keys:
                lines.append(f"{word}: {', '.join(self._called(keys))}")
        return lines

    def _called(self, keys: Iterable[str]) -> list[str]:
        return sorted(self._names.get(key, key) for key in keys)
