"""What a run is trained and scored on, for any trainer: the batches and held-out windows that a RunConfig names. No torch.

    data = open_run_data(config, corpus_folder)
    tokens_BS = data.batch(step)              # int64 [B, T+1]: inputs are [:, :-1], targets [:, 1:]
    for weight, batches in data.held_out():   # by domain; the run's loss is the sum of weight * mean loss
        for tokens_BS in batches: ...

Batches are a function of (seed, step) alone, so a resumed run needs no loader state. `llama.trainer` reads through this too:
any trainer that does sees the same tokens in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.config import RunConfig
from llama.data.corpus import Corpus, open_corpus
from llama.data.held_out import ValidationWindows, validation_batches
from llama.data.mixture import Mixture
from llama.errors import UserError

#: Held-out sequences in one batch: memory, not numbers.
HELD_OUT_BATCH_SEQUENCES = 16


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Made by `open_run_data`, or by `run_data` from a corpus that is open."""

    config: RunConfig
    mixture: Mixture
    windows: list[ValidationWindows]

    def batch(self, step: int) -> NDArray[np.int64]:
        """The batch of a step, counted from 0: `[B, T+1]`, B sequences of the recipe's batch and T tokens of context."""
        return self.mixture.batch(step)

    def held_out(self) -> Iterator[tuple[float, ValidationWindows]]:
        """Each domain's weight, and its held-out batches `[<=16, T+1]`: the same for every run of a sweep."""
        for windows in self.windows:
            yield self.config.data.weights[windows.domain], windows

    def drawn(self) -> dict[str, float | None]:
        """What the whole run draws from its corpus (unique tokens, epochs by domain), for the metrics of its DONE."""
        assert self.config.steps is not None  # what a command trains has a length
        return self.mixture.repetition(self.config.steps).metrics


def open_run_data(config: RunConfig, corpus_folder: Path | str) -> RunData:
    """Open the corpus in a folder: see `run_data`.

    Raises:
        UserError: as `check_corpus` and `run_data`, or it is damaged.
    """
    corpus = open_corpus(Path(corpus_folder))
    check_corpus(config, corpus)
    return run_data(config, corpus)


def check_corpus(config: RunConfig, corpus: Corpus) -> None:
    """Raise UserError where it is another corpus than the run's, or has token ids that the model has not."""
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


def run_data(config: RunConfig, corpus: Corpus) -> RunData:
    """Take the run's data from its corpus, which `check_corpus` let pass. Tokens are verified as they are opened.

    Raises:
        UserError: the corpus is damaged, or has too little of a domain.
    """
    mixture = Mixture(
        corpus,
        config.data.weights,
        context_length=config.model.context_length,
        batch_sequences=config.recipe.batch_sequences,
        seed=config.seed,
    )
    windows = validation_batches(
        corpus,
        config.data.weights,
        context_length=config.model.context_length,
        validation_tokens=config.data.validation_tokens,
        batch_sequences=HELD_OUT_BATCH_SEQUENCES,
    )
    return RunData(config=config, mixture=mixture, windows=windows)
