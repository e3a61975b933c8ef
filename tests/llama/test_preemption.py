"""Asked to leave, a run leaves after the step at hand, with a checkpoint, and goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cluster.local_executor import LocalExecutor
from cluster.states import Event
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Task
from llama.config import RunConfig
from llama.data.corpus import Corpus, open_corpus
from llama.preemption import SIGNALS, preemption_notice
from llama.records import RunStatus, complete_steps, read_status
from llama.trainer import train_segment
from llama.training_state import TrainingState
from llama.training_step import StepResult
from tests.llama.attempts import PREEMPTED, assert_same_bytes, start_attempt, wait_until

STEPS = 80


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_is_asked_leaves_with_its_step_and_goes_on(
    tiny_corpus: Corpus, tmp_path: Path, whole: tuple[RunConfig, Path], number: signal.Signals
) -> None:
    config, undisturbed = whole
    cut, made, noticed = tmp_path / "cut", tmp_path / "cut.made", tmp_path / "cut.noticed"
    process = start_attempt(config, cut, tiny_corpus, step_seconds=0.01)
    goal = random.Random(number).randint(1, STEPS // 2)
    wait_until(lambda: made.exists() and int(made.read_text() or 0) >= goal, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == PREEMPTED
    left = int(made.read_text())
    assert left <= int(noticed.read_text()) + 1  # the step at hand, and no other
    assert complete_steps(cut) == [left]  # and no checkpoint but the one it left with
    assert read_status(cut) is RunStatus.STARTED
    result = train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=STEPS)
    assert result.trained_steps == STEPS - left
    assert_same_bytes(undisturbed, cut, config)


def test_the_supervisor_sends_a_preempted_run_on_from_its_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, whole: tuple[RunConfig, Path]
) -> None:
    config, undisturbed = whole
    cut = tmp_path / "cut"
    arguments = {"config": config.model_dump_json(), "folder": str(cut), "corpus": str(tiny_corpus.folder)}
    task = Task(id="run", function=train_and_be_preempted, arguments=arguments)
    events: list[Event] = []
    with LocalExecutor(cpus=1, gpus=[]) as executor:
        summary = Supervisor([task], executor, on_event=events.append).run()
    assert summary.done == {"run": STEPS - 30}
    lost = [event.outcome.kind for event in events if isinstance(event.outcome, Failed)]
    assert lost == [FailureKind.PREEMPTED]
    assert_same_bytes(undisturbed, cut, config)


def train_and_be_preempted(*, attempt: int, config: str, folder: str, corpus: str) -> int:
    """A task whose first attempt gets SIGTERM in its 30th step. Returns the steps that the attempt trained."""
    update = TrainingState.update

    def signalled(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        result = update(state, *arguments, **options)
        if state.step == 30:
            signal.raise_signal(signal.SIGTERM)
        return result

    with patch.object(TrainingState, "update", signalled):
        result = train_segment(
            RunConfig.model_validate_json(config),
            run_folder=Path(folder),
            corpus=open_corpus(Path(corpus)),
            until_step=STEPS,
            attempt=attempt,
        )
    assert complete_steps(Path(folder)) == [30, STEPS]  # the one it left with, and the last
    return result.trained_steps


def test_signals_do_what_they_did_before_when_the_block_ends() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with preemption_notice() as notice:
        assert not notice
        signal.raise_signal(signal.SIGUSR1)
        assert notice
        assert notice.signal_name == "SIGUSR1"
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ValueError, match="inside"), preemption_notice():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_other_than_the_main_one_trains_without_notice() -> None:
    seen: list[bool] = []

    def in_thread() -> None:
        with preemption_notice() as notice:
            seen.append(bool(notice))
            seen.append([signal.getsignal(number) for number in SIGNALS] == before)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [False, True]
