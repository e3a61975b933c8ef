"""What a run tells the world: points of its journal, a heartbeat, and how it ended."""

from __future__ import annotations

import time

import torch

from llama.accounting import training_flops_per_token
from llama.attempt import Attempt
from llama.device import device_name, peak_flops_per_second
from llama.journal import Journal, WrittenJournal
from llama.metric_names import FLOPS, GRAD_NORM, LEARNING_RATE, MFU, SKIPPED_UPDATES, TOKENS_PER_SECOND, TRAIN_LOSS
from llama.records import DONE, HEARTBEAT, Done, Heartbeat, JournalPoint, complete_steps, now_ms, write_record
from llama.schedule import learning_rate
from llama.system_metrics import SystemMetrics

HEARTBEAT_SECONDS = 1.0


class Logbook:
    """One attempt's reports on a run, by step."""

    def __init__(self, attempt: Attempt, device: torch.device, *, start_step: int, keep_bytes: int):
        """`keep_bytes` of the journal are vouched for by the checkpoint that the attempt starts from, at `start_step`."""
        self._attempt, self._config = attempt, attempt.config
        self._flops_per_token = training_flops_per_token(self._config.model)
        self._device_name = device_name(device)
        self._peak_flops = peak_flops_per_second(device, self._config.dtype)
        self._logged_step = start_step
        self._latest: dict[str, float | None] = {}
        self._last_beat = time.monotonic()
        self._system = SystemMetrics(attempt.run_folder, device)
        if max(complete_steps(attempt.run_folder), default=0) > attempt.until_step:
            # A fork asked for between two that exist: the steps are repeated for its checkpoint, not for the journal.
            self.journal: Journal | WrittenJournal = WrittenJournal(attempt.run_folder)
        else:
            self.journal = Journal(attempt.run_folder, keep_bytes=keep_bytes)

    def add_window(
        self, step: int, *, loss: float, grad_norm: float, skipped_updates: int | None, seconds: float
    ) -> None:
        """A window of steps that ends with `step` and took the attempt `seconds`."""
        tokens_per_second = (step - self._logged_step) * self._config.batch_tokens / seconds
        self._logged_step = step
        metrics: dict[str, float | None] = {
            TRAIN_LOSS: loss,
            GRAD_NORM: grad_norm,
            LEARNING_RATE: learning_rate(self._config, step - 1),
            TOKENS_PER_SECOND: tokens_per_second,
            FLOPS: self._flops(step),
        }
        if skipped_updates is not None:
            metrics[SKIPPED_UPDATES] = float(skipped_updates)
        if self._peak_flops is not None:
            metrics[MFU] = tokens_per_second * self._flops_per_token / self._peak_flops
        self._latest = metrics
        self.add(step, metrics | self._system.sample_if_due())

    def add(self, step: int, metrics: dict[str, float | None]) -> None:
        """A branch that repeats its trunk's steps leaves them to the trunk's journal."""
        if step > (self._config.fork_step or 0):
            self.journal.add(JournalPoint(step=step, tokens=self._tokens(step), unix_ms=now_ms(), metrics=metrics))

    def beat(self, step: int) -> None:
        """Show watchers where the run stands, once every `HEARTBEAT_SECONDS`."""
        if time.monotonic() - self._last_beat <= HEARTBEAT_SECONDS:
            return
        beat = Heartbeat(
            attempt=self._attempt.number,
            step=step,
            until_step=self._attempt.until_step,
            tokens=self._tokens(step),
            loss=self._latest.get(TRAIN_LOSS),
            tokens_per_second=self._latest.get(TOKENS_PER_SECOND),
            unix_ms=now_ms(),
        )
        write_record(self._attempt.run_folder / HEARTBEAT, beat, durable=False)
        self._last_beat = time.monotonic()

    def close(
        self, step: int, *, reason: str | None, metrics: dict[str, float | None], training_seconds: float
    ) -> None:
        """The run has finished, or diverged for a `reason`: write DONE. The caller has made sure that it still owns the run."""
        done = Done(
            outcome="finished" if reason is None else "diverged",
            reason=reason,
            step=step,
            tokens=self._tokens(step),
            flops=self._flops(step),
            metrics=metrics,
            training_seconds=training_seconds,
            threads=self._attempt.threads,
            gpu_share=self._attempt.gpu_share,
            device=self._device_name,
        )
        write_record(self._attempt.run_folder / DONE, done)

    def _tokens(self, step: int) -> int:
        return step * self._config.batch_tokens

    def _flops(self, step: int) -> float:
        return float(self._tokens(step)) * self._flops_per_token
