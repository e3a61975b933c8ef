"""Train one segment of a run: from its newest good checkpoint to a step, resumable at any point with the same bits.

Batches are a function of (seed, step) and so is the learning rate, so a checkpoint holds weights, optimiser and what the
loop remembers of recent steps, and nothing else. Where an attempt begins:

    what it finds                     it takes                                    and the journal
    nothing                           weights drawn from the seed                 begins
    checkpoints of its own            the newest that is whole, and whose part    is cut to what that one vouches for
                                      of the journal is there
    a branch, none of its own         the trunk's at the fork; where that one     begins after the fork: up to there both have
                                      is bad an earlier one, and repeats steps    the same numbers
    its own beyond `until_step`       the newest at or before it: a fork was      stays as it is
                                      asked for between two that exist
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from llama.atomic_files import sync_folder
from llama.attempt import Attempt
from llama.checkpoint import clear_leftovers, drop_replaced
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.data.run_data import check_corpus, run_data
from llama.device import pick_device
from llama.errors import Diverged, Preempted
from llama.evaluation import validate
from llama.full_disk import naming_a_full_disk
from llama.garbage import no_collections
from llama.journal import newest_vouched_step
from llama.lease import LEASE_WAIT_SECONDS, Lease, acquire
from llama.logbook import Logbook
from llama.metric_names import SKIPPED_UPDATES, VAL_LOSS
from llama.precision import precision
from llama.preemption import Notice, preemption_notice
from llama.prefetch import default_data_workers, prefetch
from llama.records import FAILURE, claim, complete_steps, read_done
from llama.schedule import learning_rate
from llama.spikes import RECENT_STEPS
from llama.step_clock import StepClock
from llama.training_state import TrainingState


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """What a segment did. Seconds and tokens are this attempt's own, for the sweep's account of its time."""

    end_step: int
    trained_steps: int
    trained_tokens: int
    training_seconds: float


def train_segment(
    config: RunConfig,
    *,
    run_folder: Path,
    corpus: Corpus,
    until_step: int,
    attempt: int = 1,
    parent_folder: Path | None = None,
    threads: int = 1,
    gpu_share: float = 0.0,
    data_workers: int | None = None,
    checkpoint_seconds: float = 30.0,
    lease_wait_seconds: float = LEASE_WAIT_SECONDS,
) -> SegmentResult:
    """Train until `until_step` and leave a complete checkpoint there; at the run's own end validate it and write DONE.

    A segment whose result exists trains nothing. `parent_folder` is the trunk's, for a branch. `threads` cores and a share of a
    GPU are what the caller gave this process; they are noted for the run's account of cost. `data_workers` threads make the
    batches of coming steps, and change none of them.

    Asked to leave (see `llama.preemption`), it finishes the step at hand, writes one checkpoint and raises: that long the
    sender must wait. A request during the validation that ends a segment finds it almost done, and lets it end.

    Raises:
        Diverged: the loss or gradient norm is not finite, or every recent update was skipped; DONE says so, and a repeat
            raises the same.
        Preempted: the process was asked to leave.
        Fenced: another process took the run over.
        llama.lease.LeaseHeld: another live process holds the run and did not leave in `lease_wait_seconds`.
        UserError: the folder holds another run, the corpus is not the one in the config, or the disk is full.
    """
    check_corpus(config, corpus)
    with naming_a_full_disk(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        sync_folder(run_folder.parent)
        with acquire(run_folder, attempt=attempt, wait_seconds=lease_wait_seconds) as lease:
            claim(run_folder, config)
            if _is_done(config, run_folder, until_step):
                return SegmentResult(end_step=until_step, trained_steps=0, trained_tokens=0, training_seconds=0.0)
            torch.set_num_threads(threads)
            device = pick_device()
            asked = Attempt(
                config=config,
                run_folder=run_folder,
                parent_folder=parent_folder,
                until_step=until_step,
                number=attempt,
                threads=threads,
                gpu_share=gpu_share,
                data_workers=default_data_workers(device) if data_workers is None else data_workers,
                checkpoint_seconds=checkpoint_seconds,
            )
            with preemption_notice() as notice:
                return _Segment(asked, corpus, device, lease, notice).train()


def _is_done(config: RunConfig, run_folder: Path, until_step: int) -> bool:
    """Whether the segment's result exists."""
    done = read_done(run_folder)
    if done is not None and done.outcome == "diverged" and until_step >= done.step:
        raise Diverged(done.reason)
    is_finished = done is not None and done.outcome == "finished"
    return is_finished or (config.is_trunk and until_step in complete_steps(run_folder))


class _Segment:
    """One attempt at work."""

    def __init__(self, attempt: Attempt, corpus: Corpus, device: torch.device, lease: Lease, notice: Notice):
        """Take the newest good checkpoint: the run's own, else its trunk's at or before the fork, else draw the weights."""
        self.attempt, self.device, self.lease, self.notice = attempt, device, lease, notice
        config = self.config = attempt.config
        self.data, self.token_bytes = run_data(config, corpus), corpus.token_bytes
        self.clock = StepClock(device)
        self.state = TrainingState(config, device)
        vouched_step = newest_vouched_step(attempt.run_folder, at_most_step=attempt.until_step)
        own = self.latest_own = self.state.load(attempt.run_folder, at_most_step=vouched_step)
        self.earlier_seconds = 0.0 if own is None else own.training_seconds
        if own is None and attempt.parent_folder is not None and config.fork_step is not None:
            self.state.load(attempt.parent_folder, at_most_step=config.fork_step)
        own_step = 0 if own is None else own.step
        clear_leftovers(attempt.run_folder, newest_step=own_step, until_step=attempt.until_step)
        keep_bytes = 0 if own is None else own.journal_bytes
        self.log = Logbook(attempt, device, start_step=self.state.step, keep_bytes=keep_bytes)

    def train(self) -> SegmentResult:
        """Make the steps, validate, and commit the end."""
        until_step = self.attempt.until_step
        steps = range(self.state.step, until_step)
        with no_collections():
            with prefetch(self._make_batch, steps, workers=self.attempt.data_workers) as batches:
                self._make_steps(batches)
            metrics = self._validate()
            if self.latest_own is None or self.latest_own.step < until_step:
                self.log.add(until_step, metrics)
                self._checkpoint(kept=True)
        if until_step == self.config.steps:
            self._finish(metrics)
        (self.attempt.run_folder / FAILURE).unlink(missing_ok=True)
        return SegmentResult(
            end_step=until_step,
            trained_steps=len(steps),
            trained_tokens=len(steps) * self.config.batch_tokens,
            training_seconds=self.clock.seconds,
        )

    def _make_steps(self, batches_BS: Iterator[Tensor]) -> None:
        """The loop. Between log points and checkpoints nothing waits for the device."""
        self.next_checkpoint = time.monotonic() + self.attempt.checkpoint_seconds
        self.clock.start()
        for batch_BS in batches_BS:
            self.state.update(batch_BS, learning_rate(self.config, self.state.step))
            if self._is_log_point or self._is_checkpoint_due:
                self.clock.stop()
                if self._is_log_point:
                    self._close_window()
                if self._is_checkpoint_due:
                    self._pause()
                self.clock.start()
            self.log.beat(self.state.step)

    @property
    def _is_log_point(self) -> bool:
        """Windows end at fixed steps, so that a resumed run repeats the same means."""
        return self.state.step % self.config.log_every_steps == 0 or self.state.step == self.attempt.until_step

    @property
    def _is_checkpoint_due(self) -> bool:
        """Before the last step, which has its own."""
        is_time = bool(self.notice) or time.monotonic() > self.next_checkpoint
        return is_time and self.state.step < self.attempt.until_step

    def _pause(self) -> None:
        """Where a run may be left, and is if it was asked to; else time for the garbage collector."""
        if not self._is_log_point:  # what is saved must not be past a divergence that the next one would find
            self._check_finite(*self.state.log_window.means())
        self._checkpoint(kept=False)
        if self.notice:
            raise Preempted(f"{self.notice.signal_name} came; left after step {self.state.step:,}")
        gc.collect()
        self.next_checkpoint = time.monotonic() + self.attempt.checkpoint_seconds

    def _make_batch(self, step: int) -> Tensor:
        """Runs in a data worker, where there is one."""
        batch_BS = torch.from_numpy(self.data.batch(step))
        return batch_BS.pin_memory() if self.device.type == "cuda" else batch_BS

    def _close_window(self) -> None:
        """Journal the means of the window, and end a run that they show to have diverged."""
        spikes = self.state.spikes
        loss, grad_norm = self.state.log_window.close()
        skipped_updates, in_a_row = (None, 0) if spikes is None else spikes.counts()
        self.log.add_window(
            self.state.step,
            loss=loss,
            grad_norm=grad_norm,
            skipped_updates=skipped_updates,
            seconds=self.clock.take(),
        )
        self._check_finite(loss, grad_norm)
        if in_a_row >= min(RECENT_STEPS, self.config.steps or RECENT_STEPS):
            self._diverge(f"the last {in_a_row:,} updates were all skipped as spikes")

    def _check_finite(self, loss: float, grad_norm: float) -> None:
        """Where no update is skipped, one that was not finite ended the run."""
        if self.state.spikes is None and not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._diverge(f"train loss {loss} and gradient norm {grad_norm}")

    def _validate(self) -> dict[str, float | None]:
        config = self.config
        with precision(self.device, config.dtype, config.attention_kernel):
            final = validate(self.state.model, self.data.windows, config.data.weights, self.token_bytes, self.device)
        val_loss = final[VAL_LOSS]
        if val_loss is None or not math.isfinite(val_loss):
            self._diverge(f"validation loss {val_loss}")
        return final

    def _checkpoint(self, *, kept: bool) -> None:
        """Save, then drop what two newer ones have replaced."""
        if self.state.step < (self.config.fork_step or 0):
            return  # a branch repeating its trunk's steps has nothing of its own yet
        self.lease.check()
        before = self.latest_own
        written = self.log.journal.flush(self.state.step)
        try:
            self.latest_own = self.state.save(
                self.attempt.run_folder,
                journal_bytes=written.bytes,
                journal_sha256=written.sha256,
                training_seconds=self._training_seconds,
                kept=kept,
            )
        except OSError:
            self.log.journal.cut(0 if before is None else before.journal_bytes)
            raise
        drop_replaced(self.attempt.run_folder, newest_step=self.state.step)

    def _diverge(self, what: str) -> NoReturn:
        """End the run with its reason."""
        step = self.state.step
        reason = f"{what} at step {step:,} ({step * self.config.batch_tokens:,} tokens)"
        self.lease.check()
        self.log.journal.flush(self.state.step)
        self._finish({}, reason=reason)
        raise Diverged(reason)

    def _finish(self, metrics: dict[str, float | None], *, reason: str | None = None) -> None:
        self.lease.check()
        metrics = metrics | self.data.mixture.repetition(self.state.step).metrics
        if self.state.spikes is not None:
            metrics[SKIPPED_UPDATES] = float(self.state.spikes.counts()[0])
        self.log.close(self.state.step, reason=reason, metrics=metrics, training_seconds=self._training_seconds)

    @property
    def _training_seconds(self) -> float:
        """Over all attempts that counted."""
        return self.earlier_seconds + self.clock.seconds
