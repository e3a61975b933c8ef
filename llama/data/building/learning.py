"""The tokenizer, learned from a sample of the training text while other workers screen the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama.data.building.choosing import sample_texts
from llama.data.building.held_out import StoredGrams, load_grams
from llama.data.building.marks import Finished, once
from llama.data.building.texts import PackedFlags, TextPart
from llama.data.corpus import TOKENIZER
from llama.data.files import sha256_of
from llama.data.tokenizer import Tokenizer, sample_digest
from llama.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DomainSample:
    """Where a domain's share of the sample comes from."""

    domain: str
    parts: Sequence[TextPart]
    """Of its training text."""
    kept: Sequence[PackedFlags]
    """By part: all but exact copies."""
    limit_bytes: int


@dataclass(frozen=True, kw_only=True)
class LearningWork:
    """All that decides the tokenizer."""

    folder: Path
    domains: Sequence[DomainSample]
    held_out: StoredGrams
    vocab_size: int


class LearnedTokenizer(Finished):
    """A tokenizer's model file in the work's folder, and the sample that it learned from."""

    sha256: str
    sample_sha256: str
    sample_bytes: dict[str, int]
    """By domain."""

    @property
    def bytes(self) -> int:
        return sum(self.sample_bytes.values())


def learn_tokenizer(work: LearningWork) -> LearnedTokenizer:
    """Choose the sample and learn from it, or take up what an earlier process has learned.

    Raises:
        UserError: a domain has nothing to train on but near-duplicates of held-out text, or the sample does not support the
            vocabulary.
    """
    inputs = {
        "held_out": [work.held_out.sha256, work.held_out.limit],
        "vocab_size": work.vocab_size,
        "domains": [
            [
                sample.domain,
                sample.limit_bytes,
                [part.files for part in sample.parts],
                [kept.hex() for kept in sample.kept],
            ]
            for sample in work.domains
        ],
    }
    return once(work.folder / "learn.json", inputs=inputs, kind=LearnedTokenizer, work=lambda: _learn(work))


def _learn(work: LearningWork) -> LearnedTokenizer:
    held_out = load_grams(work.held_out)
    texts: list[str] = []
    sample_bytes: dict[str, int] = {}
    for sample in work.domains:
        kept = [flags.of(part) for flags, part in zip(sample.kept, sample.parts, strict=True)]
        share = sample_texts(
            work.folder,
            sample.parts,
            kept,
            sample.limit_bytes,
            wanted=lambda text: not held_out.match(text).is_near_duplicate,
        )
        if sample.limit_bytes and not share:
            documents = sum(int(flags.sum()) for flags in kept)
            raise UserError(
                f"domain {sample.domain!r} has nothing to train on: each of its {documents:,} training documents is a "
                f"near-duplicate of held-out text (half of its 13-grams of words stand there)"
            )
        sample_bytes[sample.domain] = sum(len(text.encode()) for text in share)
        texts += share
    tokenizer = Tokenizer.train(texts, vocab_size=work.vocab_size)
    path = work.folder / TOKENIZER
    tokenizer.save(path)
    return LearnedTokenizer(
        files={path.name: sha256_of(path)},
        sha256=tokenizer.digest,
        sample_sha256=sample_digest(texts),
        sample_bytes=sample_bytes,
    )
