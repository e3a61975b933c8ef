"""Train a run by the command that its config names: our lease, heartbeat and checks around a child process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from llama.accounting import training_flops_per_token
from llama.atomic_files import write_atomically
from llama.config import RunConfig
from llama.errors import Diverged, Preempted, UserError
from llama.full_disk import naming_a_full_disk
from llama.lease import LEASE_WAIT_SECONDS, Lease, acquire
from llama.metric_names import TOKENS_PER_SECOND, TRAIN_LOSS
from llama.preemption import preemption_notice
from llama.processor import processor_name
from llama.records import (
    CONFIG,
    DONE,
    FAILURE,
    HEARTBEAT,
    JOURNAL,
    Done,
    Heartbeat,
    claim,
    read_done,
    write_record,
)
from sweeps.trainer_command import contract, guard
from sweeps.trainer_command.child import Child
from sweeps.trainer_command.require_command import search_path

#: How often the lease, the journal and the clock are looked at.
WATCH_SECONDS = 0.5
#: How long a command that was asked to leave may take for its checkpoint.
LEAVE_SECONDS = 60.0
SIGTERM_EXIT = 128 + 15


class TrainerFailed(Exception):
    """The command ended with an error: its exit code and last words."""


def train_by_command(
    config: RunConfig,
    *,
    run_folder: Path,
    corpus_folder: Path,
    cwd: Path,
    attempt: int,
    threads: int,
    gpu_share: float,
    leave_seconds: float = LEAVE_SECONDS,
    lease_wait_seconds: float = LEASE_WAIT_SECONDS,
) -> dict[str, float]:
    """Run the command until the run has its DONE. Returns the attempt's own steps, tokens and seconds. A run that has one is
    not run again.

    Raises:
        Diverged: the command said so.
        Preempted: this process was asked to leave, and the command left; or the command was asked itself.
        TrainerFailed: the command ended with an error.
        UserError: it isn't there, wrote something wrong or nothing, or the folder is another run's.
        Fenced: another process took the run over.
        llama.lease.LeaseHeld: another live process holds it.
    """
    folder = run_folder / contract.TRAINER_FOLDER
    with naming_a_full_disk(run_folder):
        folder.mkdir(parents=True, exist_ok=True)
        with acquire(run_folder, attempt=attempt, wait_seconds=lease_wait_seconds) as lease:
            claim(run_folder, config)
            done = read_done(run_folder)
            if done is not None and done.outcome == "diverged":
                raise Diverged(done.reason)
            if done is not None:
                return {"trained_steps": 0, "trained_tokens": 0, "training_seconds": 0.0}
            begun = contract.latest_point(folder)
            first_step, started = 0 if begun is None else begun.step, time.monotonic()
            if not (folder / DONE).exists():  # else it finished, and its worker died before it could say so
                environment = _environment(run_folder, corpus_folder, folder, attempt, threads, gpu_share)
                _run(config, run_folder, folder, cwd, environment, attempt, lease, leave_seconds)
            _publish(config, run_folder, folder, lease, threads=threads, gpu_share=gpu_share)
            assert config.steps is not None  # a command's run has a length
            steps = max(0, config.steps - first_step)
            return {
                "trained_steps": steps,
                "trained_tokens": steps * config.batch_tokens,
                "training_seconds": time.monotonic() - started,
            }


def _environment(
    run_folder: Path, corpus_folder: Path, folder: Path, attempt: int, threads: int, gpu_share: float
) -> dict[str, str]:
    """The worker's, so that devices and threads are as it was given them; `python` is the one that runs isoloss."""
    return {
        **os.environ,
        "PATH": search_path(),
        contract.CONFIG_VARIABLE: str((run_folder / CONFIG).absolute()),
        contract.CORPUS_VARIABLE: str(corpus_folder.absolute()),
        contract.FOLDER_VARIABLE: str(folder.absolute()),
        contract.THREADS_VARIABLE: str(threads),
        contract.GPU_SHARE_VARIABLE: f"{gpu_share:g}",
        contract.ATTEMPT_VARIABLE: str(attempt),
    }


def _run(
    config: RunConfig,
    run_folder: Path,
    folder: Path,
    cwd: Path,
    environment: dict[str, str],
    attempt: int,
    lease: Lease,
    leave_seconds: float,
) -> None:
    """Until the command ends. Its DONE is looked at whatever its exit code: it may have been asked to leave as it finished."""
    assert config.trainer is not None
    assert config.steps is not None  # a command's run has a length
    command = config.trainer.command
    with (
        preemption_notice() as notice,
        Child(command, folder=folder, cwd=cwd, environment=environment) as child,
    ):
        code = None
        while code is None and not notice:
            code = child.wait(WATCH_SECONDS)
            lease.check()
            _beat(run_folder, folder, attempt, config.steps)
        if code is None:
            code = child.leave(leave_seconds)
        if (folder / DONE).exists():
            if code == 0 or notice:
                return
            _refuse(folder)  # it failed after it had said that it was done
        said = child.last_words()
        if notice:
            how = "was killed after" if code is None else "left within"
            raise Preempted(f"{notice.signal_name} came; the command {how} {leave_seconds:g} seconds")
        if code == SIGTERM_EXIT:
            raise Preempted("the command was asked to leave by SIGTERM, and left")
    shown = " ".join(command)
    *before, last = said.splitlines() or [""]
    quoted = f": {last}" if last else ", and said nothing on stderr"  # tables show the first line
    quoted += "\nits stderr before that:\n" + "\n".join(before) if before else ""
    if code in (guard.NOT_FOUND, guard.NOT_EXECUTABLE):
        raise UserError(f"trainer.command: `{shown}` cannot be run in {cwd}{quoted}")
    if code == 0:
        raise UserError(f"{folder / DONE}: `{shown}` ended with exit code 0 and did not write it{quoted}")
    assert code is not None  # without a notice it was waited for
    how = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    raise TrainerFailed(f"`{shown}` {how}{quoted}")


def _beat(run_folder: Path, folder: Path, attempt: int, until_step: int) -> None:
    """The run's heartbeat, from the command's newest sign of life: its journal, or the file that it may touch instead."""
    signs = [path.stat().st_mtime for name in (JOURNAL, contract.ALIVE) if (path := folder / name).exists()]
    point = contract.latest_point(folder)
    if not signs:
        return
    metrics = {} if point is None else point.metrics
    beat = Heartbeat(
        attempt=attempt,
        step=0 if point is None else point.step,
        until_step=until_step,
        tokens=0 if point is None else point.tokens,
        loss=metrics.get(TRAIN_LOSS),
        tokens_per_second=metrics.get(TOKENS_PER_SECOND),
        unix_ms=int(max(signs) * 1000),
    )
    write_record(run_folder / HEARTBEAT, beat, durable=False)


def _publish(
    config: RunConfig, run_folder: Path, folder: Path, lease: Lease, *, threads: int, gpu_share: float
) -> None:
    """Make the command's journal and DONE the run's own, once they are right."""
    try:
        result = contract.read_result(folder, config)
        assert result is not None  # it is there: `_run` saw it
        journal = contract.check_journal(folder, config, result)
    except UserError:
        _refuse(folder)
        raise
    lease.check()
    write_atomically(run_folder / JOURNAL, journal)
    done = Done(
        outcome=result.outcome,
        reason=result.reason,
        step=result.step,
        tokens=result.tokens,
        flops=float(result.tokens) * training_flops_per_token(config.model),
        metrics=result.metrics,
        training_seconds=result.training_seconds,
        threads=threads,
        gpu_share=gpu_share,
        device=_device(gpu_share),
    )
    lease.check()
    write_record(run_folder / DONE, done)
    (run_folder / FAILURE).unlink(missing_ok=True)
    if result.outcome == "diverged":
        raise Diverged(result.reason)


def _refuse(folder: Path) -> None:
    """Keep the command's DONE for a person to look at, out of the way of the next attempt's."""
    (folder / DONE).replace(folder / f"{DONE}.refused")


def _device(gpu_share: float) -> str:
    from sweeps.hardware.machine import this_machine

    return this_machine().name if gpu_share else processor_name()
