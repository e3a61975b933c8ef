"""The first stage: a section of a source is read, each document is hashed and put on its side, and spooled to disk; held-out
text with its grams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from llama.data.building.held_out import hash_part
from llama.data.building.marks import Finished, once
from llama.data.building.texts import PART_BYTES, TextPart, TextWriter
from llama.data.near_duplicates import GRAM_WORDS
from llama.data.sources import DomainSpec, Source, open_source
from llama.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one worker reads in one go: files of a domain that follow each other, or the whole of another source."""

    number: int
    domain: str
    spec: DomainSpec
    """The domain's, narrowed to this section's files."""
    base: Path
    sources: dict[str, str]
    """SHA-256 by name of what it reads."""
    source_bytes: int
    """As stored; 0 where that is not known."""
    held_out_fraction: float
    folder: Path


class SectionTexts(Finished):
    """What a section holds."""

    train: list[TextPart]
    val: list[TextPart]
    skipped: dict[str, int]
    """Documents that cannot be used, by reason."""

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in (*self.train, *self.val))


def cut_sections(
    sources: dict[str, Source], specs: dict[str, DomainSpec], *, base: Path, held_out_fraction: float, folder: Path
) -> list[Section]:
    """All domains in sections, in the order of their documents. A section's files hold a part's bytes or are one file."""
    sections: list[Section] = []
    for domain, source in sources.items():
        spec = specs[domain]
        for names, source_bytes in _file_groups(source, base) if spec.files is not None else [(list(source.parts), 0)]:
            sections.append(
                Section(
                    number=len(sections),
                    domain=domain,
                    spec=spec.model_copy(update={"files": names}) if spec.files is not None else spec,
                    base=base,
                    sources={name: source.parts[name] for name in names},
                    source_bytes=source_bytes,
                    held_out_fraction=held_out_fraction,
                    folder=folder,
                )
            )
    return sections


def _file_groups(source: Source, base: Path) -> Iterator[tuple[list[str], int]]:
    names: list[str] = []
    held_bytes = 0
    for name in source.parts:
        names.append(name)
        held_bytes += (base / name).stat().st_size
        if held_bytes >= PART_BYTES:
            yield names, held_bytes
            names, held_bytes = [], 0
    if names:
        yield names, held_bytes


def read_section(section: Section) -> SectionTexts:
    """Read a section into text parts, or take up what an earlier process has read.

    A document is held out by the hash of its text alone: it stays on its side as a corpus grows, and an exact copy in
    another domain falls on the same side.

    Raises:
        UserError: a file is damaged, lacks the text field, or is no longer what it was when the build began.
    """
    inputs = {
        "domain": section.domain,
        "spec": section.spec.model_dump(mode="json"),
        "sources": section.sources,
        "held_out_fraction": section.held_out_fraction,
        "gram_words": GRAM_WORDS,
    }
    mark = section.folder / f"{section.number:06d}.read.json"
    return once(mark, inputs=inputs, kind=SectionTexts, work=lambda: _read(section))


def _read(section: Section) -> SectionTexts:
    source = open_source(section.domain, section.spec, base=section.base)
    if source.parts != section.sources:
        changed = next(iter(sorted(dict(source.parts.items() ^ section.sources.items()))))
        raise UserError(f"domain {section.domain!r}: {changed} has changed since the build began; start it again")
    train, val = (TextWriter(section.folder, f"{section.number:06d}.{split}") for split in ("train", "val"))
    skipped: Counter[str] = Counter()
    for document in source.read_documents(skipped):
        text = document.text.encode()
        both = blake2b(text, digest_size=16).digest()
        text_hash, rank = int.from_bytes(both[:8], "little"), int.from_bytes(both[8:], "little")
        side = val if text_hash < section.held_out_fraction * 2**64 else train
        side.append(text, text_hash=text_hash, rank=rank)
    parts = [*train.close(), *val.close()]
    files = {name: sha256 for part in parts for name, sha256 in part.files.items()}
    for part in val.parts:
        files |= hash_part(section.folder, part)
    return SectionTexts(
        files=files,
        train=train.parts,
        val=val.parts,
        skipped=dict(sorted(skipped.items())),
    )
