"""A run that a command trains: what it is told, what becomes of what it wrote, and how it ends with its worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.task import FailureKind
from cluster.worker import classify
from llama.config import RunConfig
from llama.errors import Diverged, Fenced, Preempted, UserError
from llama.lease import acquire
from llama.records import RunStatus, read_config, read_done, read_heartbeat, read_journal, read_status
from sweeps.trainer_command import train
from sweeps.trainer_command.train import TrainerFailed, train_by_command
from tests.sweeps.examples import design

FAKE = Path(__file__).with_name("fake_trainer.py")


def config_of(*command: str, version: str = "1") -> RunConfig:
    """A short run: 10 steps of 1,024 tokens."""
    found = design(
        ladder__widths=[16],
        budgets={"tokens": [10_240]},
        recipe={"name": "inverse_width", "warmup_tokens": 1024, "cooldown_min_steps": 2},
        trainer={"command": list(command) or ["python", str(FAKE)], "version": version},
    )
    return found.runs[0].config


class Sandbox:
    def __init__(self, folder: Path):
        self.folder, self.cwd = folder / "run", folder
        self.trainer = self.folder / "trainer"

    def train(self, config: RunConfig | None = None, *, attempt: int = 1, **script: Any) -> dict[str, float]:
        (self.cwd / "script.json").write_text(json.dumps(script))
        return train_by_command(
            config or config_of(),
            run_folder=self.folder,
            corpus_folder=self.cwd / "corpus",
            cwd=self.cwd,
            attempt=attempt,
            threads=2,
            gpu_share=0.0,
            leave_seconds=20.0,
            lease_wait_seconds=0.0,
        )


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(train, "WATCH_SECONDS", 0.05)
    return Sandbox(tmp_path)


def test_a_command_leaves_a_finished_run(sandbox: Sandbox) -> None:
    config = config_of()
    result = sandbox.train()
    assert (result["trained_steps"], result["trained_tokens"]) == (10, 10_240)
    assert read_config(sandbox.folder) == config
    assert read_status(sandbox.folder) is RunStatus.FINISHED
    done = read_done(sandbox.folder)
    assert done is not None
    assert (done.tokens, done.metrics, done.threads, done.training_seconds) == (10_240, {"val/loss": 4.25}, 2, 1.5)
    assert [point.step for point in read_journal(sandbox.folder)] == list(range(1, 11))
    (sandbox.trainer / "metrics.jsonl").unlink()
    assert sandbox.train(attempt=2)["trained_steps"] == 0  # a finished run is not run again
    assert not (sandbox.trainer / "metrics.jsonl").exists()


def test_a_command_that_finished_before_its_worker_died_is_not_run_again(sandbox: Sandbox) -> None:
    sandbox.train()
    for name in ("DONE", "metrics.jsonl"):
        (sandbox.folder / name).unlink()
    sandbox.train(attempt=2, code=3)
    assert read_status(sandbox.folder) is RunStatus.FINISHED


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"done": {"tokens": 10_000}}, "DONE: tokens: found 10000; the run's 10,240 is right"),
        ({"done": {"step": 9}}, "DONE: step: found 9; the run's 10 is right"),
        ({"done": {"metrics": {}}}, "DONE: metrics.val/loss: found nothing; a finite loss in nats a token"),
        ({"done": {"metrics": {"val/loss": float("nan")}}}, "DONE: metrics.val/loss: found nan; a finite loss"),
        ({"done": {"training_seconds": 0}}, "DONE: training_seconds: found 0.0; a number above 0 is right"),
        ({"done": {"outcome": "ok"}}, "DONE: outcome: found 'ok'; Input should be 'finished' or 'diverged'"),
        ({"done": {"loss": 4.0}}, "DONE: loss: found 4.0; Extra inputs are not permitted"),
        ({"done": {"outcome": "diverged"}}, "DONE: reason: found nothing; why it diverged, in words, is right"),
        ({"done_text": "{"}, "DONE: the file: found"),
        ({"write_done": False}, "ended with exit code 0 and did not write it"),
        ({"journal": ""}, "metrics.jsonl: no line has metrics.train/loss"),
        ({"journal": "{}\n"}, "metrics.jsonl line 1: step: found {}; Field required"),
        ({"journal": "[1]\n"}, "metrics.jsonl line 1: not a journal point: a JSON object was expected"),
        (
            {"journal": '{"step": 2, "tokens": 5, "unix_ms": 1, "metrics": {}}\n'},
            "metrics.jsonl line 1: tokens: found 5; 2,048, of 2 steps, is right",
        ),
        (
            {"journal": '{"step": 2, "tokens": 2048, "unix_ms": 1, "metrics": {}}\n' * 2},
            "metrics.jsonl line 2: step: found 2; a step above the 2 before it, up to 10, is right",
        ),
    ],
)
def test_what_it_wrote_wrong_is_named_by_file_and_field(sandbox: Sandbox, script: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        sandbox.train(**script)
    assert str(sandbox.trainer) in str(error.value)
    assert message in str(error.value)
    assert read_done(sandbox.folder) is None
    sandbox.train(attempt=2)  # mended, it is run again
    assert read_status(sandbox.folder) is RunStatus.FINISHED


def test_a_diverged_run_says_so_and_is_not_run_again(sandbox: Sandbox) -> None:
    for attempt in (1, 2):
        with pytest.raises(Diverged, match="loss is NaN at step 4"):
            sandbox.train(
                attempt=attempt,
                done={
                    "outcome": "diverged",
                    "reason": "loss is NaN at step 4",
                    "step": 10,
                    "tokens": 10_240,
                    "metrics": {},
                },
            )
    assert read_status(sandbox.folder) is RunStatus.DIVERGED


def test_its_exit_code_and_last_words_are_the_reason(sandbox: Sandbox) -> None:
    with pytest.raises(
        TrainerFailed, match=r"ended with exit code 3: ValueError: no such optimiser\nits stderr before that:\nTrace"
    ) as error:
        sandbox.train(code=3, say="Trace\nValueError: no such optimiser")
    assert classify(error.value) is FailureKind.CRASHED
    assert read_done(sandbox.folder) is None
    assert (sandbox.trainer / "DONE.refused").exists()  # it had said that it was done, and then failed


def test_a_command_that_is_not_there_is_the_users_to_mend(sandbox: Sandbox) -> None:
    with pytest.raises(
        UserError, match=r"trainer.command: `nowhere --fast` cannot be run in .*: nowhere: No such file"
    ):
        sandbox.train(config_of("nowhere", "--fast"))


def test_another_version_is_another_run(sandbox: Sandbox) -> None:
    ours = design(ladder__widths=[16]).runs[-1].config
    keys = {config_of().key, config_of(version="2").key, config_of("python", "other.py").key}
    assert len(keys) == 3
    assert ours.trainer is None
    assert "trainer" not in ours.model_dump_json()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_asked_to_leave_it_leaves_and_goes_on_from_its_own_checkpoint(sandbox: Sandbox) -> None:
    def ask() -> None:
        wait_for(sandbox.trainer / "waiting")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Preempted, match="SIGTERM came; the command left"):
        sandbox.train(stop_at_step=4)
    asking.join()
    beat = read_heartbeat(sandbox.folder)
    assert beat is not None
    assert (beat.step, beat.until_step, beat.tokens) == (4, 10, 4096)
    assert sandbox.train(attempt=2, stop_at_step=4)["trained_steps"] == 6
    assert [point.step for point in read_journal(sandbox.folder)] == list(range(1, 11))


def test_a_worker_that_lost_its_lease_ends_the_command(sandbox: Sandbox) -> None:
    def take_over() -> None:
        wait_for(sandbox.trainer / "waiting")
        leases = sandbox.folder / "lease"
        (leases / "000002.json").write_bytes((leases / "000001.json").read_bytes())

    taking = threading.Thread(target=take_over)
    taking.start()
    with pytest.raises(Fenced):
        sandbox.train(stop_at_step=4, grandchild=True)
    taking.join()
    assert_gone(sandbox)


def assert_gone(sandbox: Sandbox) -> None:
    pids = [int((sandbox.trainer / name).read_text()) for name in ("pid", "grandchild")]
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_worker_leaves_no_process(sandbox: Sandbox) -> None:
    """The worker is a process of its own here, killed with SIGKILL; the command has a child too."""
    (sandbox.cwd / "script.json").write_text(json.dumps({"stop_at_step": 4, "grandchild": True}))
    (sandbox.cwd / "config.json").write_text(config_of().model_dump_json())
    code = f"""
from pathlib import Path
from llama.config import RunConfig
from sweeps.trainer_command.train import train_by_command
folder = Path({str(sandbox.cwd)!r})
train_by_command(
    RunConfig.model_validate_json((folder / "config.json").read_text()), run_folder=folder / "run",
    corpus_folder=folder, cwd=folder, attempt=1, threads=1, gpu_share=0.0,
)
"""
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_for(sandbox.trainer / "waiting")
    worker.kill()
    worker.wait()
    assert_gone(sandbox)
    with acquire(sandbox.folder, attempt=2):
        pass  # nobody holds the run
    assert sandbox.train(attempt=2)["trained_steps"] == 6
