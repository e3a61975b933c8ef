"""Batches as a pure function of (seed, step): there is no loader state to save, lose or replay.

A run's training sequences are numbered s = step * B + b. In each block of 1,024 of them every domain has a fixed whole
number of places, its weight by largest remainder, in an order shuffled by (seed, block): shares are exact in every
block, and how many sequences of a domain come before s has a closed form. A domain's stream is cut into windows of T + 1
tokens at stride T (a window's last token is the next one's first, so every token but the stream's first is a target
once; the last tokens, fewer than T, are left over). The k-th sequence of a domain takes window p(k mod W) of its W windows,
p a random permutation of its epoch k // W: no window comes twice before all have come once.

Documents follow one another in a stream, each after a BOS. Windows begin and end inside them, and neither attention nor
positions stop where one begins.

The weights' own order does not matter: domains go by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llama.data.corpus import Corpus
from llama.data.permutation import derive_key, permute, shuffle_order
from llama.data.quotas import BLOCK_SEQUENCES, block_quotas, window_count
from llama.data.repetition import Repetition, repetition


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
