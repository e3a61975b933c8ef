"""Batches as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama.data.corpus import Corpus


class Mixture:
    """Training batches of a corpus' domains, mixed by weight."""

    def __init__(
        self, corpus: Corpus, weights: Mapping[str, float], *, context_length: int, batch_sequences: int, seed: int
    ) -> None:
        raise NotImplementedError

    def batch(self, step: int) -> NDArray[np.int64]:
        """`[B, T+1]` tokens; inputs are `[:, :-1]`, targets `[:, 1:]`."""
        raise NotImplementedError


def epochs(
    train_tokens: Mapping[str, int], weights: Mapping[str, float], *, context_length: int, tokens: int
) -> dict[str, float]:
    """Passes over each domain in a run of `tokens`, from token counts alone."""
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One domain's fixed validation windows."""

    domain: str
    tokens: int

    def batches(self) -> Iterator[NDArray[np.int64]]:
        raise NotImplementedError


def validation_batches(
    corpus: Corpus,
    weights: Mapping[str, float],
    *,
    context_length: int,
    validation_tokens: int,
    batch_sequences: int,
) -> list[HeldOut]:
    """By domain, in order of name: `for held_out in ...: for tokens_BT1 in held_out.batches(): ...`"""
    raise NotImplementedError
