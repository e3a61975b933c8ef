"""Batches as a pure function of (seed, step): there is no loader state to save, lose or replay.

A run's training sequences are numbered s = step * B + b. In each block of 1,024 of them every domain has a fixed whole
number of places, its weight by largest remainder, in an order shuffled by (seed, block): shares are exact in every
block, and how many sequences of a domain come before s has a closed form. A domain's stream is cut into windows of T + 1
tokens at stride T (a window's last token is the next one's first, so every token but the stream's first is a target
once). The k-th sequence of a domain takes window p(k mod W) of its W windows, p a random permutation of its epoch
k // W: no window comes twice before all have come once.

The weights' own order does not matter: domains go by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama.data.permutation import derive_key, permute, shuffle_order
from llama.errors import UserError
from llama.metric_names import REPETITIONS, UNIQUE_TOKENS, epochs_of

if TYPE_CHECKING:
    from llama.data.corpus import Corpus  # planning counts epochs without opening any
    from llama.data.shards import Tokens

BLOCK_SEQUENCES = 1024

#: Up to about four epochs repeated tokens are worth nearly as much as new ones (Muennighoff et al. 2023, section 5).
EPOCHS_WORTH_NEW = 4.0


class Mixture:
    """A run's training batches: `batch(step)` from the corpus' domains, mixed by weight."""

    def __init__(
        self, corpus: Corpus, weights: Mapping[str, float], *, context_length: int, batch_sequences: int, seed: int
    ) -> None:
        """Open the streams.

        Args:
            weights: by domain, in any scale; domains that the corpus has beside them are not used.
            context_length: T, the inputs of one sequence.
            batch_sequences: B.

        Raises:
            UserError: a domain is not in the corpus, has fewer than T + 1 training tokens, or weighs too little.
        """
        self.context_length = context_length
        self.batch_sequences = batch_sequences
        self.seed = seed
        self.domains = sorted(weights)
        quotas = block_quotas(weights)
        self._quotas = [quotas[domain] for domain in self.domains]
        self._streams = [corpus.train_stream(domain) for domain in self.domains]
        self._windows = [
            window_count(domain, len(stream), context_length)
            for domain, stream in zip(self.domains, self._streams, strict=True)
        ]
        self._domain_ids = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) for name in self.domains]
        # Places and windows are worked out a block at a time; keeping a few blocks changes no batch.
        self._block = lru_cache(maxsize=4)(self._compute_block)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Tokens `[B, T+1]` of a step: inputs are `[:, :-1]`, targets `[:, 1:]`."""
        tokens = np.empty((self.batch_sequences, self.context_length + 1), dtype=np.int64)
        first = step * self.batch_sequences
        row = 0
        while row < self.batch_sequences:
            block, place = divmod(first + row, BLOCK_SEQUENCES)
            domains, starts = self._block(block)
            rows = min(self.batch_sequences - row, BLOCK_SEQUENCES - place)
            for domain, start in zip(domains[place : place + rows], starts[place : place + rows], strict=True):
                tokens[row] = self._streams[domain][start : start + self.context_length + 1]
                row += 1
        return tokens

    def repetition(self, steps: int) -> Repetition:
        """What so many steps from the first drew from the domains."""
        return repetition(
            {domain: len(stream) for domain, stream in zip(self.domains, self._streams, strict=True)},
            dict(zip(self.domains, self._quotas, strict=True)),
            context_length=self.context_length,
            tokens=steps * self.batch_sequences * self.context_length,
        )

    def _compute_block(self, block: int) -> tuple[list[int], list[int]]:
        """Each sequence of a block: its domain's number and the first token of its window."""
        order = shuffle_order(BLOCK_SEQUENCES, derive_key(self.seed, block))
        domains = np.repeat(np.arange(len(self.domains)), self._quotas)[order]
        starts = np.empty(BLOCK_SEQUENCES, dtype=np.int64)
        for domain, (quota, windows) in enumerate(zip(self._quotas, self._windows, strict=True)):
            taken = block * quota + np.arange(quota)
            epochs, indices = np.divmod(taken, windows)
            # A block holds one or two epochs of most domains; keys are worked out once an epoch.
            first_epoch = int(epochs[0])
            keys = np.array(
                [
                    derive_key(self.seed, self._domain_ids[domain], epoch)
                    for epoch in range(first_epoch, epochs[-1] + 1)
                ],
                dtype=np.uint64,
            )
            starts[domains == domain] = permute(indices, windows, keys[epochs - first_epoch]) * self.context_length
        return domains.tolist(), starts.tolist()


def block_quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Sequences of each domain in a block of 1,024: the weights' shares by largest remainder, ties by name.

    Raises:
        UserError: a weight is not positive, or so small that its domain would never be seen.
    """
    names = sorted(weights)
    total = sum(weights[name] for name in names)
    if not names or min(weights.values()) <= 0:
        raise UserError(f"domain weights must be positive, and there must be one; they are {dict(weights)}")
    exact = {name: BLOCK_SEQUENCES * weights[name] / total for name in names}
    quotas = {name: int(exact[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: BLOCK_SEQUENCES - sum(quotas.values())]:
        quotas[name] += 1
    for name, quota in quotas.items():
        if quota == 0:
            raise UserError(
                f"domain {name!r} has {weights[name] / total:.2g} of the weight: less than one of {BLOCK_SEQUENCES:,} "
                f"sequences, so it would never be seen; raise its weight or leave it out"
            )
    return quotas


def window_count(domain: str, tokens: int, context_length: int, *, kind: str = "training") -> int:
    """Windows of `context_length + 1` tokens at stride `context_length` in a stream of `tokens`.

    Raises:
        UserError: there is none.
    """
    windows = (tokens - 1) // context_length
    if windows < 1:
        raise UserError(
            f"domain {domain!r} has {tokens:,} {kind} tokens, fewer than one sequence of context_length {context_length:,} "
            f"and the token after it; give it more text or shorten the context"
        )
    return windows


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """How often a run saw its tokens."""

    unique_tokens: int
    """Distinct tokens among those it trained on."""
    repetitions: float
    """Tokens seen over unique ones: 1 where nothing came twice."""
    epochs: dict[str, float]
    """Passes over each domain."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """By the names that run folders and MLflow have for them."""
        passes: dict[str, float | None] = {epochs_of(domain): count for domain, count in self.epochs.items()}
        return {UNIQUE_TOKENS: self.unique_tokens, REPETITIONS: self.repetitions, **passes}


def repetition(
    train_tokens: Mapping[str, int], weights: Mapping[str, float], *, context_length: int, tokens: int
) -> Repetition:
    """How often a run of `tokens` sees its domains, from their training token counts alone and alike for every seed.

    Exact for whole blocks of 1,024 sequences; a run that ends inside a block may be off by that block's order.

    Raises:
        UserError: as `Mixture`.
    """
    sequences = tokens / context_length
    unique = 0.0
    passes: dict[str, float] = {}
    for domain, quota in block_quotas(weights).items():
        if domain not in train_tokens:
            raise UserError(f"the corpus has no domain {domain!r}; it has {', '.join(sorted(train_tokens))}")
        windows = window_count(domain, train_tokens[domain], context_length)
        taken = sequences * quota / BLOCK_SEQUENCES
        unique += min(taken, windows)
        passes[domain] = taken / windows
    unique_tokens = round(unique * context_length)
    return Repetition(unique_tokens=unique_tokens, repetitions=tokens / max(unique_tokens, 1), epochs=passes)


@dataclass(frozen=True, kw_only=True)
class ValidationWindows:
    """One domain's part of the fixed validation set."""

    domain: str
    stream: Tokens
    starts: list[int]
    """First token of each window."""
    context_length: int
    batch_sequences: int

    @property
    def tokens(self) -> int:
        """Targets that are scored: fewer than asked for where the domain has fewer."""
        return len(self.starts) * self.context_length

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Batches `[<=B, T+1]`: inputs are `[:, :-1]`, targets `[:, 1:]`."""
        for first in range(0, len(self.starts), self.batch_sequences):
            windows = [
                self.stream[start : start + self.context_length + 1]
                for start in self.starts[first:][: self.batch_sequences]
            ]
            yield np.stack(windows).astype(np.int64)


def validation_batches(
    corpus: Corpus,
    weights: Mapping[str, float],
    *,
    context_length: int,
    validation_tokens: int,
    batch_sequences: int,
) -> list[ValidationWindows]:
    """The held-out windows that every run with these arguments scores, whatever its seed, by domain in order of name.

    `validation_tokens` is shared evenly between the domains, in whole windows and at least one a domain; they are spread
    evenly over the domain's held-out stream. A domain with fewer gives all it has: see `ValidationWindows.tokens`.

    Raises:
        UserError: a domain is not in the corpus or holds out fewer than T + 1 tokens.
    """
    asked = max(1, validation_tokens // len(weights) // context_length)
    sets = []
    for domain in sorted(weights):
        stream = corpus.validation_stream(domain)
        windows = window_count(domain, len(stream), context_length, kind="held-out")
        taken = min(asked, windows)
        sets.append(
            ValidationWindows(
                domain=domain,
                stream=stream,
                starts=[index * windows // taken * context_length for index in range(taken)],
                context_length=context_length,
                batch_sequences=batch_sequences,
            )
        )
    return sets
