"""Train one segment of a run: from its newest good checkpoint to a step, resumable at any point with the same bits.

Batches are a function of (seed, step) and the learning rate of the step, so a checkpoint holds weights, optimiser state and
a step, and nothing else. A branch takes its trunk's checkpoint at the fork; where that one is bad it takes an earlier one
and repeats the trunk's steps without journalling them, since up to the fork both have the same numbers.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import torch

from llama.accounting import training_flops_per_token
from llama.checkpoint import clear_leftovers, drop_checkpoint, load_latest, save_checkpoint
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.data.mixture import Mixture, validation_batches
from llama.device import make_deterministic, peak_flops_per_second, pick_device, precision, use_threads
from llama.errors import Diverged, UserError
from llama.evaluation import validate
from llama.journal import Journal, WrittenJournal
from llama.lease import STALE_SECONDS, Lease, acquire
from llama.model import Llama
from llama.optimizer import make_optimizer, training_step
from llama.records import (
    CONFIG,
    DONE,
    FAILURE,
    FLOPS,
    GRAD_NORM,
    HEARTBEAT,
    LEARNING_RATE,
    MFU,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    VAL_LOSS,
    CheckpointMark,
    Done,
    Heartbeat,
    JournalPoint,
    complete_steps,
    read_config,
    read_done,
    write_record,
)
from llama.schedule import learning_rate
from llama.window import Window

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
    checkpoint_seconds: float = 30.0,
    lease_wait_seconds: float = STALE_SECONDS + 15.0,
) -> SegmentResult:
    """Train until `until_step` and leave a complete checkpoint there; at the run's own end validate it and write DONE.

    A segment whose result exists trains nothing. `parent_folder` is the trunk's, for a branch. `threads` cores and a share of a
    GPU are what the caller gave this process; they are noted for the run's account of cost.

    Raises:
        Diverged: the loss or gradient norm is not finite; DONE says so, and a repeat raises the same.
        Fenced: another process took the run over.
        llama.lease.LeaseHeld: another live process holds the run and did not leave in `lease_wait_seconds`.
        UserError: the folder holds another run, or the corpus is not the one in the config.
    """
    if corpus.digest != config.data.corpus_digest:
        raise UserError(
            f"run {config.key} needs corpus {config.data.corpus_digest[:12]}, but the corpus at hand is "
            f"{corpus.digest[:12]}: build the one that the run names"
        )
    run_folder.mkdir(parents=True, exist_ok=True)
    with acquire(run_folder, attempt=attempt, wait_seconds=lease_wait_seconds) as lease:
        stored = read_config(run_folder)
        if stored is None:
            write_record(run_folder / CONFIG, config)
        elif stored != config:
            raise UserError(f"{run_folder / CONFIG} is another run's: its key is {stored.key}, not {config.key}")
        done = read_done(run_folder)
        if done is not None and done.outcome == "diverged" and until_step >= done.step:
            raise Diverged(done.reason)
        if (done is not None and done.outcome == "finished") or (
            config.is_trunk and until_step in complete_steps(run_folder)
        ):
            return SegmentResult(end_step=until_step, trained_steps=0, trained_tokens=0, training_seconds=0.0)
        use_threads(threads)
        segment = _Segment(
            config, run_folder, corpus, until_step, attempt, lease, checkpoint_seconds, threads, gpu_share
        )
        segment.restore(parent_folder)
        return segment.train()


class _Segment:
    """The state of one attempt at a segment."""

    def __init__(
        self,
        config: RunConfig,
        run_folder: Path,
        corpus: Corpus,
        until_step: int,
        attempt: int,
        lease: Lease,
        checkpoint_seconds: float,
        threads: int,
        gpu_share: float,
    ):
        self.threads, self.gpu_share = threads, gpu_share
        self.config, self.run_folder, self.corpus, self.lease = config, run_folder, corpus, lease
        self.until_step, self.attempt, self.checkpoint_seconds = until_step, attempt, checkpoint_seconds
        self.device = pick_device()
        make_deterministic(self.device)
        self.flops_per_token = training_flops_per_token(config.model)
        self.peak_flops = peak_flops_per_second(self.device, config.dtype)
        self.mixture = Mixture(
            corpus,
            config.data.weights,
            context_length=config.model.context_length,
            batch_sequences=config.recipe.batch_sequences,
            seed=config.seed,
        )
        self.model = Llama(config.model)
        self.step = 0
        self.training_seconds = 0.0
        self.journal_start_step = config.fork_step or 0
        self.latest_own: CheckpointMark | None = None
        self.window = Window()

    def restore(self, parent_folder: Path | None) -> None:
        """Take the newest good checkpoint: the run's own, else its trunk's at or before the fork, else draw the weights."""
        self.model.initialise(torch.Generator().manual_seed(self.config.seed), self.config.recipe.transfer)
        self.model.to(self.device)
        if self.config.compile:
            # A worker compiles one shape after another; past torch's limit of recompilations it would turn eager unsaid.
            torch._dynamo.reset()
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            for block in self.model.blocks:
                block.compile()
        self.optimizer = make_optimizer(self.model, self.config.recipe)
        keep_bytes = 0
        mark = load_latest(self.run_folder, self.model, self.optimizer, self.window, at_most_step=self.until_step)
        if mark is not None:
            self.latest_own, keep_bytes = mark, mark.journal_bytes
            self.training_seconds = mark.training_seconds
        elif parent_folder is not None and self.config.fork_step is not None:
            mark = load_latest(
                parent_folder, self.model, self.optimizer, self.window, at_most_step=self.config.fork_step
            )
        self.step = mark.step if mark is not None else 0
        clear_leftovers(self.run_folder, newest_step=self.step)
        if max(complete_steps(self.run_folder), default=0) > self.until_step:
            # A fork asked for between two that exist: the steps are repeated for its checkpoint, not for the journal.
            self.journal: Journal | WrittenJournal = WrittenJournal(self.run_folder, until_step=self.until_step)
        else:
            self.journal = Journal(self.run_folder, keep_bytes=keep_bytes)

    def train(self) -> SegmentResult:
        """The loop. Losses stay on the device between log points; the garbage collector stays out of the steps."""
        metrics: dict[str, float | None] = {}
        start_step = timed_from_step = self.step
        trained_seconds = window_seconds = 0.0
        stretch_started = last_checkpoint = last_beat = time.monotonic()
        gc.collect()
        gc.disable()
        try:
            while self.step < self.until_step:
                self._update()
                at_log_point = self.step % self.config.log_every_steps == 0 or self.step == self.until_step
                is_due = time.monotonic() - last_checkpoint > self.checkpoint_seconds and self.step < self.until_step
                if at_log_point or is_due:
                    means = self.window.close() if at_log_point else None  # waits for the device, so before the clock
                    stretch_seconds = time.monotonic() - stretch_started
                    trained_seconds += stretch_seconds
                    window_seconds += stretch_seconds
                    if means is not None:
                        tokens_per_second = (self.step - timed_from_step) * self.config.batch_tokens / window_seconds
                        metrics = self._close_window(*means, tokens_per_second, trained_seconds)
                        timed_from_step, window_seconds = self.step, 0.0
                    if is_due:
                        self._checkpoint(trained_seconds, kept=False)
                        gc.collect()
                        last_checkpoint = time.monotonic()
                    stretch_started = time.monotonic()
                if time.monotonic() - last_beat > HEARTBEAT_SECONDS:
                    self._beat(metrics)
                    last_beat = time.monotonic()
            final = self._validate()
            val_loss = final[VAL_LOSS]
            if val_loss is None or not math.isfinite(val_loss):
                self._diverge(f"validation loss {val_loss}", trained_seconds)
            if self.latest_own is None or self.latest_own.step < self.until_step:
                self._journal(final)
                self._checkpoint(trained_seconds, kept=True)
        finally:
            gc.enable()
        if self.until_step == self.config.steps:
            self._finish("finished", None, final, trained_seconds)
        (self.run_folder / FAILURE).unlink(missing_ok=True)
        steps = self.step - start_step
        return SegmentResult(
            end_step=self.step,
            trained_steps=steps,
            trained_tokens=steps * self.config.batch_tokens,
            training_seconds=trained_seconds,
        )

    def _update(self) -> None:
        batch_BS = torch.from_numpy(self.mixture.batch(self.step)).to(self.device)
        with precision(self.device, self.config.dtype, self.config.attention_kernel):
            loss, grad_norm = training_step(
                self.model,
                self.optimizer,
                batch_BS,
                learning_rate=learning_rate(self.config, self.step),
                clip_norm=self.config.recipe.clip_norm,
            )
        self.window.add(loss, grad_norm)
        self.step += 1

    def _close_window(
        self, loss: float, grad_norm: float, tokens_per_second: float, trained_seconds: float
    ) -> dict[str, float | None]:
        """Journal a window. Windows end at fixed steps, so that a resumed run repeats the same means."""
        metrics: dict[str, float | None] = {
            TRAIN_LOSS: loss,
            GRAD_NORM: grad_norm,
            LEARNING_RATE: learning_rate(self.config, self.step - 1),
            TOKENS_PER_SECOND: tokens_per_second,
            FLOPS: self._flops,
        }
        if self.peak_flops is not None:
            metrics[MFU] = tokens_per_second * self.flops_per_token / self.peak_flops
        self._journal(metrics)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._diverge(f"train loss {loss} and gradient norm {grad_norm}", trained_seconds)
        return metrics

    def _diverge(self, what: str, trained_seconds: float) -> NoReturn:
        """End the run with its reason."""
        reason = f"{what} at step {self.step:,} ({self._tokens:,} tokens)"
        self.lease.check()
        self.journal.flush()
        self._finish("diverged", reason, {}, trained_seconds)
        raise Diverged(reason)

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
            return validate(self.model, held_out, config.data.weights, self.corpus.token_bytes, self.device)

    def _journal(self, metrics: dict[str, float | None]) -> None:
        if self.step > self.journal_start_step:
            unix_ms = int(time.time() * 1000)
            self.journal.add(JournalPoint(step=self.step, tokens=self._tokens, unix_ms=unix_ms, metrics=metrics))

    def _checkpoint(self, trained_seconds: float, *, kept: bool) -> None:
        """Save, then drop the one it replaces."""
        if self.step < self.journal_start_step:
            return  # a branch repeating its trunk's steps has nothing of its own yet
        self.lease.check()
        replaced, self.latest_own = (
            self.latest_own,
            save_checkpoint(
                self.run_folder,
                self.model,
                self.optimizer,
                self.window,
                step=self.step,
                tokens=self._tokens,
                journal_bytes=self.journal.flush(),
                training_seconds=self.training_seconds + trained_seconds,
                kept=kept,
            ),
        )
        if replaced is not None and not replaced.kept:
            drop_checkpoint(self.run_folder, replaced.step)

    def _finish(
        self,
        outcome: Literal["finished", "diverged"],
        reason: str | None,
        metrics: dict[str, float | None],
        trained_seconds: float,
    ) -> None:
        self.lease.check()
        done = Done(
            outcome=outcome,
            reason=reason,
            step=self.step,
            tokens=self._tokens,
            flops=self._flops,
            metrics=metrics,
            training_seconds=self.training_seconds + trained_seconds,
            threads=self.threads,
            gpu_share=self.gpu_share,
        )
        write_record(self.run_folder / DONE, done)

    def _beat(self, metrics: dict[str, float | None]) -> None:
        beat = Heartbeat(
            attempt=self.attempt,
            step=self.step,
            until_step=self.until_step,
            tokens=self._tokens,
            loss=metrics.get(TRAIN_LOSS),
            tokens_per_second=metrics.get(TOKENS_PER_SECOND),
            unix_ms=int(time.time() * 1000),
        )
        write_record(self.run_folder / HEARTBEAT, beat, durable=False)

    @property
    def _tokens(self) -> int:
        return self.step * self.config.batch_tokens

    @property
    def _flops(self) -> float:
        return float(self._tokens) * self.flops_per_token
