"""What kills cost, counted from the ledger."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults.ledger import Entry


@dataclass(frozen=True, kw_only=True)
class VictimFigures:
    """Of the kills of one kind of process."""

    kills: int
    recoveries: int
    """After how many of them the sweep went on: an attempt begun since made a step, or committed something, that was new. After
    the others it had nothing left to train.
    """
    steps_redone: int
    """Until the next kill."""
    seconds_lost: dict[str, float]
    """From a kill until the sweep went on: median and most. Runs that were not hit went on meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one sweep that was disturbed and completed, after every invariant held (`tests.faults.invariants`)."""

    kills: int
    steps_needed: int
    steps_trained: int
    steps_redone: int
    seconds: float
    """From the first thing that happened to the last."""
    by_victim: dict[str, VictimFigures]
    bit_identical: bool = True
    """`assert_recovered` has seen to it."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def count(entries: list[Entry]) -> Figures:
    """From the ledger of a sweep that is complete."""
    known: set[tuple[str, str, int]] = set()
    kills: list[Entry] = []
    redone: Counter[int] = Counter()
    went_on: dict[int, float] = {}
    kills_before: dict[tuple[str, int], int] = {}
    """How many there had been when an attempt began, by run and process."""
    for entry in entries:
        if entry.kind == "kill":
            kills.append(entry)
        elif entry.kind == "acquire":
            kills_before[entry.run, entry.pid] = len(kills)
        elif entry.kind != "ask":
            fact = (entry.kind, entry.run, entry.step)
            if fact not in known:
                for number in range(kills_before[entry.run, entry.pid]):
                    went_on.setdefault(number, entry.seconds)
            elif entry.kind == "step":
                redone[len(kills) - 1] += 1
            known.add(fact)
    steps = [entry for entry in entries if entry.kind == "step"]
    return Figures(
        kills=len(kills),
        steps_needed=sum(kind == "step" for kind, _, _ in known),
        steps_trained=len(steps),
        steps_redone=redone.total(),
        seconds=round(entries[-1].seconds - entries[0].seconds, 1),
        by_victim={victim: _of_victim(victim, kills, redone, went_on) for victim in sorted({k.victim for k in kills})},
    )


def _of_victim(victim: str, kills: list[Entry], redone: Counter[int], went_on: dict[int, float]) -> VictimFigures:
    numbers = [number for number, kill in enumerate(kills) if kill.victim == victim]
    lost = [went_on[number] - kills[number].seconds for number in numbers if number in went_on]
    return VictimFigures(
        kills=len(numbers),
        recoveries=len(lost),
        steps_redone=sum(redone[number] for number in numbers),
        seconds_lost={"median": round(statistics.median(lost), 1), "most": round(max(lost), 1)} if lost else {},
    )
