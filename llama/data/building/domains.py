"""What a build knows of a domain between its stages, and what the manifest says of it in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama.data.building.encoding import EncodedShard
from llama.data.building.screening import ScreenedPart, read_places
from llama.data.building.texts import Flags, TextPart
from llama.data.corpus import DomainManifest
from llama.data.near_duplicates import HeldOutGrams, Overlap


@dataclass(kw_only=True)
class Side:
    """A domain's training or held-out documents."""

    parts: list[TextPart]
    kept: list[Flags]
    """By part: all but exact copies."""

    @property
    def documents(self) -> int:
        return int(sum(flags.sum() for flags in self.kept))

    @property
    def copies(self) -> int:
        return sum(part.documents for part in self.parts) - self.documents


@dataclass(kw_only=True)
class Domain:
    """What has been read of a domain."""

    name: str
    train: Side
    val: Side
    skipped: dict[str, int]

    @property
    def sides(self) -> tuple[Side, Side]:
        """In the order of `SPLITS`."""
        return self.train, self.val


def overlaps(work: Path, domains: Sequence[Domain], held_out: HeldOutGrams) -> dict[str, Overlap]:
    """By domain, how many of its held-out 13-grams some training document of the corpus still holds."""
    in_training = np.zeros(len(held_out.hashes), dtype=np.bool_)
    for domain in domains:
        for part in domain.train.parts:
            in_training[read_places(work, part)[0]] = True
    found: dict[str, Overlap] = {}
    for domain in domains:
        grams = shared = 0
        for part in domain.val.parts:
            places, counts = read_places(work, part)
            grams += int(counts.sum())
            shared += int(counts[in_training[places]].sum())
        found[domain.name] = Overlap(grams, shared)
    return found


def domain_manifest(
    domain: Domain,
    *,
    origin: str,
    screened: Sequence[ScreenedPart],
    shards: Sequence[EncodedShard],
    sample_bytes: int,
    overlap: Overlap,
) -> DomainManifest:
    """From its training parts as screened, and its shards `[split]`."""
    train, validation = shards
    return DomainManifest(
        origin=origin,
        train_documents=train.documents,
        validation_documents=validation.documents,
        train_bytes=train.bytes,
        validation_bytes=validation.bytes,
        train_tokens=train.header.tokens,
        validation_tokens=validation.header.tokens,
        duplicates=domain.train.copies + domain.val.copies,
        near_duplicates=sum(part.near_duplicates for part in screened),
        skipped=dict(sorted(domain.skipped.items())),
        tokenizer_sample_bytes=sample_bytes,
        held_out_grams=overlap.grams,
        held_out_grams_in_training=overlap.shared,
        train_sha256=train.header.payload_sha256,
        validation_sha256=validation.header.payload_sha256,
    )
