"""What a launch says of a serving cost that it could not measure."""

from pathlib import Path

import pytest

from cluster.local_executor import LocalExecutor
from llama.errors import UserError
from llama.records import DONE, Done, write_record
from sweeps.control import ask
from sweeps.hardware.place import this_place
from sweeps.launching import measuring
from sweeps.launching.heeding import Heeding
from sweeps.launching.standing import Standing
from sweeps.planning.prepare import Prepared, prepare
from sweeps.storage import Storage
from tests.sweeps.tiny_sweep import TINY, write

SWEEP = TINY | {
    "ladder": {"widths": [8], "context_length": 32},
    "budgets": {"tokens": [2_048]},
    "inference": {"max_batch": 2, "prompt_tokens": 4, "output_tokens": 4},
}


@pytest.fixture
def finished(tmp_path: Path) -> Prepared:
    """A sweep of one run, which says that it has finished."""
    place, storage = this_place(), Storage(tmp_path / "storage")
    prepared = prepare(write(SWEEP, tmp_path), storage, place, say=lambda line: None)
    for key in prepared.names:
        done = Done(
            outcome="finished",
            reason=None,
            step=1,
            tokens=1,
            flops=1.0,
            metrics={"val/loss": 1.0},
            training_seconds=1.0,
        )
        storage.run(key).mkdir(parents=True)
        write_record(storage.run(key) / DONE, done)
    return prepared


def said_while_measuring(prepared: Prepared) -> list[str]:
    said: list[str] = []
    heeding = Heeding(prepared.storage.sweep("tiny"), prepared.design.segments, prepared.names, say=said.append)
    with LocalExecutor(cpus=1, gpus=[]) as executor:
        standing, place = Standing(prepared), this_place()
        measuring.measure_inference(prepared, standing, executor, place, heeding, again=False, say=said.append)
    return said


def test_cancelled_with_its_sweep_it_needs_no_other_launch_but_a_resume(finished: Prepared) -> None:
    ask(finished.storage.sweep("tiny"), "cancelled")
    assert said_while_measuring(finished)[1:] == [
        "tiny is cancelled: no launch runs it until `isoloss resume tiny`",
        "serving cost was not measured: the sweep was cancelled",
    ]


def test_failed_it_is_measured_by_another_launch(finished: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise UserError("serving cost was not measured: no node is left")

    monkeypatch.setattr(measuring, "measure_shapes", fail)
    assert said_while_measuring(finished)[-1] == (
        "serving cost was not measured: no node is left; launch again to measure it"
    )
