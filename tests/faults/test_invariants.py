"""The invariants and the figures, on ledgers that were made up: each violation is seen."""

from __future__ import annotations

import pytest

from tests.faults.figures import count
from tests.faults.invariants import assert_one_writer, assert_only_lost_steps_redone
from tests.faults.ledger import Entry, Kind


def ledger(text: str) -> list[Entry]:
    """One entry a word, a second apart: `1a` process 1 takes the run, `1s3` makes step 3, `1c3` commits it, `1d` writes DONE;
    `kill` is one of a worker.
    """
    kinds: dict[str, Kind] = {"a": "acquire", "s": "step", "c": "checkpoint", "d": "done"}
    entries = []
    for second, word in enumerate(text.split()):
        if word == "kill":
            entries.append(Entry(kind="kill", seconds=second, pid=0, victim="worker"))
        else:
            pid, kind, step = int(word[0]), kinds[word[1]], int(word[2:] or 0)
            entries.append(Entry(kind=kind, seconds=second, pid=pid, run="run", step=step))
    return entries


@pytest.mark.parametrize("text", ["1a 1c2 2a 2c4 2d", "1a 2a 1s1 2d"])
def test_commits_by_the_latest_holder_are_right(text: str) -> None:
    assert_one_writer(ledger(text))


@pytest.mark.parametrize("text", ["1a 2a 1c2", "1a 1c2 2a 2c4 1d"])
def test_a_commit_by_a_writer_whose_place_was_taken_is_seen(text: str) -> None:
    with pytest.raises(AssertionError, match="whose place"):
        assert_one_writer(ledger(text))


@pytest.mark.parametrize(
    "text",
    [
        "1a 1s1 1s2 1c2 1s3 2a 2s3 2c3 2d",
        "1a 1s1 2a 2s1 2c1 2d 1s2",  # a late writer doesn't know yet
    ],
)
def test_steps_since_the_last_checkpoint_may_be_made_again(text: str) -> None:
    assert_only_lost_steps_redone(ledger(text), {"run": 0})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1a 1s1 1s2 1c2 2a 2s1", "after 2"),
        ("1a 1s1 1s3", "after 1"),
        ("1a 1s1 1c1 1d 1s2", "was finished"),
        ("1a 1s1 1s2 1c2 1c1", "after 2"),
    ],
    ids=["committed steps again", "a step left out", "a finished run", "a checkpoint before the last"],
)
def test_other_repetitions_are_seen(text: str, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        assert_only_lost_steps_redone(ledger(text), {"run": 0})


def test_figures_count_steps_made_again_and_the_time_until_something_new() -> None:
    figures = count(ledger("1a 1s1 1c1 1s2 1s3 kill 2a 2s2 2s3 2s4 2c4 2d kill"))
    assert (figures.kills, figures.steps_needed, figures.steps_trained, figures.steps_redone) == (2, 4, 6, 2)
    worker = figures.by_victim["worker"]
    assert (worker.kills, worker.recoveries, worker.steps_redone) == (2, 1, 2)
    assert worker.seconds_lost == {"median": 4.0, "most": 4.0}
