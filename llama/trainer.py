"""Train one segment of a run: from its newest good checkpoint to a step, resumable at any point with the same bits.

Batches are a function of (seed, step) and so is the learning rate, so a checkpoint holds weights, optimiser and what the
loop remembers of recent steps, and nothing else. A branch takes its trunk's checkpoint at the fork; where that one is bad
it takes an earlier one and repeats the trunk's steps without journalling them, since up to the fork both have the same
numbers.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from llama.checkpoint import clear_leftovers, drop_checkpoint
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.data.mixture import Mixture, validation_batches
from llama.device import pick_device
from llama.errors import Diverged, Preempted, UserError
from llama.evaluation import validate
from llama.full_disk import naming_a_full_disk
from llama.lease import STALE_SECONDS, Lease, acquire
from llama.logbook import Logbook
from llama.metric_names import SKIPPED_UPDATES, VAL_LOSS
from llama.precision import precision
from llama.preemption import Notice, preemption_notice
from llama.prefetch import default_data_workers, prefetch
from llama.records import CONFIG, FAILURE, complete_steps, read_config, read_done, write_record
from llama.schedule import learning_rate
from llama.spikes import RECENT_STEPS
from llama.step_clock import StepClock
from llama.training_state import TrainingState

HEARTBEAT_SECONDS = 1.0
VALIDATION_BATCH_SEQUENCES = 16


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
    lease_wait_seconds: float = STALE_SECONDS + 15.0,
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
    if corpus.digest != config.data.corpus_digest:
        raise UserError(
            f"run {config.key} needs corpus {config.data.corpus_digest[:12]}, but the corpus at hand is "
            f"{corpus.digest[:12]}: build the one that the run names"
        )
    if corpus.vocab_size > config.model.vocab_size:
        raise UserError(
            f"run {config.key} has model.vocab_size {config.model.vocab_size:,}, but its corpus holds token ids up to "
            f"{corpus.vocab_size - 1:,}: give the model a vocabulary of {corpus.vocab_size:,} or more"
        )
    with naming_a_full_disk(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        with acquire(run_folder, attempt=attempt, wait_seconds=lease_wait_seconds) as lease:
            if _is_done(config, run_folder, until_step):
                return SegmentResult(end_step=until_step, trained_steps=0, trained_tokens=0, training_seconds=0.0)
            torch.set_num_threads(threads)
            with preemption_notice() as notice:
                segment = _Segment(
                    config,
                    run_folder=run_folder,
                    parent_folder=parent_folder,
                    corpus=corpus,
                    until_step=until_step,
                    attempt=attempt,
                    lease=lease,
                    notice=notice,
                    threads=threads,
                    gpu_share=gpu_share,
                    data_workers=data_workers,
                    checkpoint_seconds=checkpoint_seconds,
                )
                return segment.train()


def _is_done(config: RunConfig, run_folder: Path, until_step: int) -> bool:
    """Whether the segment's result exists. Claims an empty folder for the run."""
    stored = read_config(run_folder)
    if stored is None:
        write_record(run_folder / CONFIG, config)
    elif stored != config:
        raise UserError(f"{run_folder / CONFIG} is another run's: its key is {stored.key}, not {config.key}")
    done = read_done(run_folder)
    if done is not None and done.outcome == "diverged" and until_step >= done.step:
        raise Diverged(done.reason)
    is_finished = done is not None and done.outcome == "finished"
    return is_finished or (config.is_trunk and until_step in complete_steps(run_folder))


class _Segment:
    """One attempt at a segment."""

    def __init__(
        self,
        config: RunConfig,
        *,
        run_folder: Path,
        parent_folder: Path | None,
        corpus: Corpus,
        until_step: int,
        attempt: int,
        lease: Lease,
        notice: Notice,
        threads: int,
        gpu_share: float,
        data_workers: int | None,
        checkpoint_seconds: float,
    ):
        """Take the newest good checkpoint: the run's own, else its trunk's at or before the fork, else draw the weights."""
        self.config, self.run_folder, self.corpus, self.until_step = config, run_folder, corpus, until_step
        self.lease, self.notice, self.checkpoint_seconds = lease, notice, checkpoint_seconds
        self.threads, self.gpu_share = threads, gpu_share
        self.device = pick_device()
        self.data_workers = default_data_workers(self.device) if data_workers is None else data_workers
        self.mixture = Mixture(
            corpus,
            config.data.weights,
            context_length=config.model.context_length,
            batch_sequences=config.recipe.batch_sequences,
            seed=config.seed,
        )
        self.clock = StepClock()
        self.state = TrainingState(config, self.device)
        own = self.latest_own = self.state.load(run_folder, at_most_step=until_step)
        self.earlier_seconds = 0.0 if own is None else own.training_seconds
        if own is None and parent_folder is not None and config.fork_step is not None:
            self.state.load(parent_folder, at_most_step=config.fork_step)
        clear_leftovers(run_folder, newest_step=self.state.step)
        keep_bytes = 0 if own is None else own.journal_bytes
        self.log = Logbook(
            config,
            run_folder,
            self.device,
            attempt=attempt,
            start_step=self.state.step,
            until_step=until_step,
            keep_bytes=keep_bytes,
        )

    def train(self) -> SegmentResult:
        """The loop. Losses stay on the device between log points; the garbage collector stays out of the steps."""
        steps = range(self.state.step, self.until_step)
        last_beat = last_checkpoint = time.monotonic()
        gc.collect()
        gc.freeze()  # what is there by now stays: later collections look at what came since
        gc.disable()
        try:
            with prefetch(self._make_batch, steps, workers=self.data_workers) as batches:
                self.clock.start()
                for batch_BS in batches:
                    self.state.update(batch_BS, learning_rate(self.config, self.state.step))
                    step, is_last = self.state.step, self.state.step == self.until_step
                    is_log_point = step % self.config.log_every_steps == 0 or is_last
                    is_old = time.monotonic() - last_checkpoint > self.checkpoint_seconds
                    is_due = (is_old or bool(self.notice)) and not is_last
                    if is_log_point or is_due:
                        means = self.state.window.close() if is_log_point else None  # waits for the device
                        self.clock.stop()
                        if means is not None:
                            self._close_window(*means)
                        if is_due:
                            self._checkpoint(kept=False)
                            if self.notice:
                                raise Preempted(f"{self.notice.signal_name} came; left after step {step:,}")
                            gc.collect()
                            last_checkpoint = time.monotonic()
                        self.clock.start()
                    if time.monotonic() - last_beat > HEARTBEAT_SECONDS:
                        self.log.beat(step)
                        last_beat = time.monotonic()
            final = self._validate()
            if self.latest_own is None or self.latest_own.step < self.until_step:
                self.log.add(self.until_step, final)
                self._checkpoint(kept=True)
        finally:
            gc.enable()
            gc.unfreeze()
        if self.until_step == self.config.steps:
            if self.state.spikes is not None:
                final[SKIPPED_UPDATES] = float(self.state.spikes.counts()[0])
            self._finish(final)
        (self.run_folder / FAILURE).unlink(missing_ok=True)
        return SegmentResult(
            end_step=self.state.step,
            trained_steps=len(steps),
            trained_tokens=len(steps) * self.config.batch_tokens,
            training_seconds=self.clock.seconds,
        )

    def _make_batch(self, step: int) -> Tensor:
        """Runs in a data worker, where there is one."""
        batch_BS = torch.from_numpy(self.mixture.batch(step))
        return batch_BS.pin_memory() if self.device.type == "cuda" else batch_BS

    def _close_window(self, loss: float, grad_norm: float) -> None:
        """Journal a window. Windows end at fixed steps, so that a resumed run repeats the same means."""
        step, spikes = self.state.step, self.state.spikes
        skipped_updates, in_a_row = (None, 0) if spikes is None else spikes.counts()
        self.log.add_window(
            step,
            loss=loss,
            grad_norm=grad_norm,
            skipped_updates=skipped_updates,
            seconds=self.clock.take(),
        )
        if spikes is None and not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._diverge(f"train loss {loss} and gradient norm {grad_norm}")
        if in_a_row >= min(RECENT_STEPS, self.config.steps or RECENT_STEPS):
            self._diverge(f"the last {in_a_row:,} updates were all skipped as spikes")

    def _validate(self) -> dict[str, float | None]:
        config = self.config
        held_out = validation_batches(
            self.corpus,
            config.data.weights,
            context_length=config.model.context_length,
            validation_tokens=config.data.validation_tokens,
            batch_sequences=VALIDATION_BATCH_SEQUENCES,
        )
        with precision(self.device, config.dtype, config.attention_kernel):
            final = validate(self.state.model, held_out, config.data.weights, self.corpus.token_bytes, self.device)
        val_loss = final[VAL_LOSS]
        if val_loss is None or not math.isfinite(val_loss):
            self._diverge(f"validation loss {val_loss}")
        return final

    def _checkpoint(self, *, kept: bool) -> None:
        """Save, then drop the one it replaces."""
        if self.state.step < (self.config.fork_step or 0):
            return  # a branch repeating its trunk's steps has nothing of its own yet
        self.lease.check()
        replaced = self.latest_own
        journal_bytes = self.log.journal.flush()
        try:
            self.latest_own = self.state.save(
                self.run_folder, journal_bytes=journal_bytes, training_seconds=self._training_seconds, kept=kept
            )
        except OSError:
            self.log.journal.cut(0 if replaced is None else replaced.journal_bytes)
            raise
        if replaced is not None and not replaced.kept:
            drop_checkpoint(self.run_folder, replaced.step)

    def _diverge(self, what: str) -> NoReturn:
        """End the run with its reason."""
        step = self.state.step
        reason = f"{what} at step {step:,} ({step * self.config.batch_tokens:,} tokens)"
        self.lease.check()
        self.log.journal.flush()
        self._finish({}, reason=reason)
        raise Diverged(reason)

    def _finish(self, metrics: dict[str, float | None], *, reason: str | None = None) -> None:
        self.lease.check()
        self.log.close(
            self.state.step,
            reason=reason,
            metrics=metrics | self.mixture.repetition(self.state.step).metrics,
            training_seconds=self._training_seconds,
            threads=self.threads,
            gpu_share=self.gpu_share,
        )

    @property
    def _training_seconds(self) -> float:
        """Over all attempts that counted."""
        return self.earlier_seconds + self.clock.seconds
