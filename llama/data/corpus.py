"""Corpora: built once, opened by every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.data.sources import CorpusSpec


class Corpus:
    """An open corpus: `.folder`, `.digest`, `.vocab_size`, `.tokenizer`, `.domains` (name -> manifest record)."""

    folder: Path
    digest: str
    vocab_size: int
    token_bytes: NDArray[np.int64]

    def train_stream(self, domain: str) -> NDArray[np.uint16] | NDArray[np.uint32]:
        raise NotImplementedError

    def validation_stream(self, domain: str) -> NDArray[np.uint16] | NDArray[np.uint32]:
        raise NotImplementedError


def build_corpus(spec: CorpusSpec, storage: Path, *, base: Path, report: Callable[[str], None]) -> Corpus:
    raise NotImplementedError


def open_corpus(folder: Path) -> Corpus:
    raise NotImplementedError
