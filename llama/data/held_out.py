"""The fixed validation set: windows of each domain's held-out stream, the same for every run of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama.data.corpus import Corpus
from llama.data.quotas import window_count
from llama.data.shards import Tokens


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
