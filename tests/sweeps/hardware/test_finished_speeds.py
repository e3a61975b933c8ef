"""Speeds that plans take from finished runs."""

import pytest

from llama.records import CONFIG, DONE, Done, write_record
from sweeps.hardware.calibration import Setup, TrainedShape
from sweeps.hardware.finished_speeds import finished_speeds
from sweeps.hardware.machine import Machine
from sweeps.storage import Storage
from tests.sweeps.examples import CPU, design

SETUP = Setup(Machine("cpu", "some processor", "2.13.0"), CPU, threads=1)


def finish(storage: Storage, run, seconds: float, **changes) -> None:
    config = run.config
    done = Done(
        outcome="finished",
        reason=None,
        step=config.steps,
        tokens=config.tokens,
        flops=1.0,
        metrics={},
        training_seconds=seconds,
        threads=1,
        device="some processor",
    )
    folder = storage.run(config.key)
    folder.mkdir(parents=True)
    write_record(folder / CONFIG, config)
    write_record(folder / DONE, done.model_copy(update=changes))


def test_a_shapes_speed_is_its_runs_own_tokens_over_their_seconds(tmp_path):
    storage = Storage(tmp_path)
    first, second, *_ = (run for run in design().runs if not run.record.is_trunk and run.size == "w16")
    finish(storage, first, 10.0)
    finish(storage, second, 30.0)
    own_tokens = sum((run.config.steps - run.config.fork_step) * run.config.batch_tokens for run in (first, second))
    found = finished_speeds(storage, SETUP, gpu_share=0.0)
    assert found.runs == 2
    (point,) = found.points
    assert point.shape == TrainedShape.of(first.config)
    assert point.tokens_per_second == pytest.approx(own_tokens / 40)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "another"},
        {"device": None},
        {"threads": 2},
        {"gpu_share": 0.25},
        {"outcome": "diverged", "reason": "loss nan"},
        {"training_seconds": 0.0},
    ],
)
def test_other_devices_and_other_ends_are_no_evidence(tmp_path, changes):
    storage = Storage(tmp_path)
    finish(storage, next(run for run in design().runs if not run.record.is_trunk), 10.0, **changes)
    assert finished_speeds(storage, SETUP, gpu_share=0.0).points == ()


def test_another_precision_is_no_evidence_and_a_damaged_run_neither(tmp_path):
    storage = Storage(tmp_path)
    run = next(run for run in design().runs if not run.record.is_trunk)
    finish(storage, run, 10.0)
    bf16 = SETUP._replace(numerics=CPU._replace(dtype="bfloat16"))
    assert finished_speeds(storage, bf16, gpu_share=0.0).runs == 0
    (storage.run(run.config.key) / DONE).write_text("{")
    assert finished_speeds(storage, SETUP, gpu_share=0.0).runs == 0
