"""Everything that training changes, built in the one order that works and carried by checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from llama.activation_checkpointing import apply_activation_checkpointing
from llama.checkpoint import load_latest, save_checkpoint
from llama.compilation import compile_model
from llama.config import RunConfig
from llama.device import make_deterministic
from llama.log_window import LogWindow
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.precision import apply_precision, precision
from llama.records import CheckpointMark
from llama.spikes import SpikeFilter
from llama.training_step import StepResult, training_step


class TrainingState:
    """A run after `step` steps: weights, optimiser, the log window that is open, and the memory of spikes."""

    def __init__(self, config: RunConfig, device: torch.device):
        """The state at step 0. Weights are drawn before the model moves, so that every device starts from the same bits;
        blocks are wrapped from the inside out; the optimiser comes last, since it takes the parameters as they then are.

        Makes the process's algorithms deterministic: what is timed is what trains.
        """
        make_deterministic(device)
        self.config, self.device = config, device
        self.step = 0
        self.model = Llama(config.model)
        self.model.initialise(torch.Generator().manual_seed(config.seed), config.recipe.transfer)
        self.model.to(device)
        apply_activation_checkpointing(self.model, config.activation_checkpointing)
        apply_precision(self.model, config.dtype, device)
        if config.compile:
            micro_batches = config.recipe.batch_sequences // config.micro_batch_sequences
            compile_model(self.model, device, micro_batches=micro_batches)
        self.optimizer = make_optimizer(self.model, config.recipe)
        self.log_window = LogWindow(device)
        sigma = config.recipe.skip_sigma
        self.spikes = None if sigma is None else SpikeFilter(sigma, device)

    def update(self, tokens_BS: Tensor, learning_rate: float) -> StepResult:
        """Make the next step, on a batch of sequences one token longer than the context, wherever they lie. No host sync."""
        config = self.config
        with precision(self.device, config.dtype, config.attention_kernel):
            result = training_step(
                self.model,
                self.optimizer,
                tokens_BS.to(self.device, non_blocking=True),
                micro_batch_sequences=config.micro_batch_sequences,
                learning_rate=learning_rate,
                clip_norm=config.recipe.clip_norm,
                spikes=self.spikes,
            )
        self.log_window.add(result)
        self.step += 1
        return result

    def load(self, run_folder: Path, *, at_most_step: int) -> CheckpointMark | None:
        """Take the newest good checkpoint at or before a step; None where there is none, and the state stays what it was.

        Raises:
            UserError: that checkpoint is another run's.
        """
        mark = load_latest(run_folder, self.model, self.optimizer, self._carried, at_most_step=at_most_step)
        if mark is not None:
            self.step = mark.step
        return mark

    def save(
        self, run_folder: Path, *, journal_bytes: int, journal_sha256: str, training_seconds: float, kept: bool
    ) -> CheckpointMark:
        return save_checkpoint(
            run_folder,
            self.model,
            self.optimizer,
            self._carried,
            run_key=self.config.key,
            step=self.step,
            tokens=self.step * self.config.batch_tokens,
            journal_bytes=journal_bytes,
            journal_sha256=journal_sha256,
            training_seconds=training_seconds,
            kept=kept,
        )

    @property
    def _carried(self) -> list[LogWindow | SpikeFilter]:
        return [self.log_window] if self.spikes is None else [self.log_window, self.spikes]
