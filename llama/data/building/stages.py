"""A build from beginning to end: read, choose, learn the tokenizer, encode, join.

Reading and encoding, which take the time, are pieces of work on files, done by this process or shared out by an executor; the
bytes are the same. What must be known of all documents at once is decided here, from their hashes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from llama.data.building.choosing import first_copies, sample_texts
from llama.data.building.domains import Domain, Side, domain_manifest, overlaps
from llama.data.building.encoding import (
    EncodingWork,
    PartTokens,
    StoredGrams,
    encode_part,
    join_parts,
)
from llama.data.building.executor import Execute
from llama.data.building.progress import Stage, Watch
from llama.data.building.reading import SectionTexts, cut_sections, read_section
from llama.data.building.texts import PART_BYTES, TextPart
from llama.data.corpus import (
    BUILD_VERSION,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    CorpusManifest,
    content_digest,
    shard_path,
)
from llama.data.near_duplicates import HeldOutGrams
from llama.data.shards import ShardHeader
from llama.data.sources import CorpusSpec, Source
from llama.data.tokenizer import Tokenizer, sample_digest
from llama.errors import UserError
from llama.records import write_record

MIN_VALIDATION_TOKENS = 256


class Build:
    """One build, in the order in which its methods stand."""

    def __init__(
        self,
        spec: CorpusSpec,
        sources: dict[str, Source],
        base: Path,
        partial: Path,
        report: Callable[[str], None],
        watch: Watch,
        execute: Execute,
    ) -> None:
        self._spec = spec
        self._sources = sources
        self._base = base
        self._partial = partial
        self._work = partial / "work"
        self._report = report
        self._watch = watch
        self._execute = execute

    def into(self, folder: Path, input_digest: str) -> None:
        """Make `folder` the finished corpus. What a killed build has finished is taken up."""
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            manifest = self._build(input_digest)
        except UserError:
            # Other inputs will be another folder, and nobody goes on from this one; but a dataset's server may only be away.
            if not any(domain.dataset for domain in self._spec.domains.values()):
                shutil.rmtree(self._partial, ignore_errors=True)
            raise
        shutil.rmtree(self._work)
        write_record(self._partial / MANIFEST, manifest)
        self._partial.rename(folder)

    def _build(self, input_digest: str) -> CorpusManifest:
        domains = self._read()
        held_out = HeldOutGrams.of(chain.from_iterable(domain.val.texts(self._work) for domain in domains))
        tokenizer, sample_sha256, sample_bytes = self._learn(domains, held_out)
        encoded = self._encode(domains, held_out, tokenizer)
        headers = self._join(domains, encoded, tokenizer)
        overlap = overlaps(self._work, domains, held_out)
        manifests = {
            domain.name: domain_manifest(
                domain,
                origin=self._sources[domain.name].origin,
                encoded=[[encoded[part.name] for part in side.parts] for side in domain.sides],
                headers=[headers[domain.name, split] for split in SPLITS],
                sample_bytes=sample_bytes[domain.name],
                overlap=overlap[domain.name],
            )
            for domain in domains
        }
        for domain in domains:
            manifest = manifests[domain.name]
            if near := manifest.near_duplicates:
                self._report(f"{domain.name}: {near:,} training documents left out as near-duplicates of held-out ones")
            self._require_validation(domain, manifest.train_documents, manifest.validation_tokens)
        return CorpusManifest(
            format_version=BUILD_VERSION,
            digest=content_digest(tokenizer.digest, manifests),
            input_digest=input_digest,
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer.digest,
            tokenizer_sample_sha256=sample_sha256,
            spec=self._spec,
            domains=manifests,
        )

    def _read(self) -> list[Domain]:
        """Every section into text parts; then each domain's documents, exact copies marked."""
        sections = cut_sections(
            self._sources,
            self._spec.domains,
            base=self._base,
            held_out_fraction=self._spec.held_out_fraction,
            folder=self._work,
        )
        weights = [section.source_bytes or PART_BYTES for section in sections]
        # Largest first, so that no worker is left alone with it; datasets are the longest of all.
        order = sorted(range(len(sections)), key=lambda n: (sections[n].spec.dataset is None, -weights[n]))
        finished = self._execute(read_section, [sections[n] for n in order])  # starts the workers, if there are any
        stage = Stage("reading", self._watch, [weights[n] for n in order])
        read: dict[int, SectionTexts] = {}
        for place, texts in finished:
            read[order[place]] = texts
            stage.finished(place, texts.bytes, reused=texts.reused)

        parts: dict[tuple[str, str], list[TextPart]] = {(name, split): [] for name in self._sources for split in SPLITS}
        skipped: dict[str, Counter[str]] = {name: Counter() for name in self._sources}
        for section in sections:
            texts = read[section.number]
            parts[section.domain, "train"] += texts.train
            parts[section.domain, "val"] += texts.val
            skipped[section.domain].update(texts.skipped)
        sides: dict[tuple[str, str], Side] = {}
        for split in SPLITS:  # a copy is always on the side of what it copies
            kept = iter(first_copies(self._work, [part for name in self._sources for part in parts[name, split]]))
            for name in self._sources:
                here = parts[name, split]
                sides[name, split] = Side(parts=here, kept=[next(kept) for _ in here])
        domains = [
            Domain(name=name, train=sides[name, "train"], val=sides[name, "val"], skipped=dict(skipped[name]))
            for name in self._sources
        ]
        for domain in domains:
            self._report_domain(domain)
        return domains

    def _report_domain(self, domain: Domain) -> None:
        documents = domain.train.documents + domain.val.documents
        copies = domain.train.copies + domain.val.copies
        left_out = {**domain.skipped, **({"duplicates": copies} if copies else {})}
        notes = "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(left_out.items()))
        if documents == 0:
            origin = self._sources[domain.name].origin
            raise UserError(
                f"domain {domain.name!r} ({origin}) has no usable document{notes and f': it has{notes[1:]}'}"
            )
        self._report(f"{domain.name}: {documents:,} documents{notes}")
        if domain.train.documents == 0 or domain.val.documents == 0:
            self._require_validation(domain, domain.train.documents, 0)

    def _learn(self, domains: Sequence[Domain], held_out: HeldOutGrams) -> tuple[Tokenizer, str, dict[str, int]]:
        """The tokenizer, its sample's SHA-256, and the sample's bytes by domain."""
        total_weight = sum(domain.weight for domain in self._spec.domains.values())
        sample: list[str] = []
        sample_bytes: dict[str, int] = {}
        for domain in domains:
            limit_bytes = int(self._spec.tokenizer.sample_bytes * self._spec.domains[domain.name].weight / total_weight)
            share = sample_texts(
                self._work,
                domain.train.parts,
                domain.train.kept,
                limit_bytes,
                wanted=lambda text: not held_out.match(text).is_near_duplicate,
            )
            if limit_bytes and not share:
                raise UserError(
                    f"domain {domain.name!r} has nothing to train on: each of its {domain.train.documents:,} training "
                    f"documents is a near-duplicate of held-out text (half of its 13-grams of words stand there)"
                )
            sample_bytes[domain.name] = sum(len(text.encode()) for text in share)
            sample += share
        stage = Stage("learning the tokenizer", self._watch, [1])
        tokenizer = Tokenizer.train(sample, vocab_size=self._spec.tokenizer.vocab_size)
        tokenizer.save(self._partial / TOKENIZER)
        stage.finished(0, sum(sample_bytes.values()))
        return tokenizer, sample_digest(sample), sample_bytes

    def _encode(self, domains: Sequence[Domain], held_out: HeldOutGrams, tokenizer: Tokenizer) -> dict[str, PartTokens]:
        """Every text part into tokens; by the part's name."""
        grams = StoredGrams.of(held_out, self._work)
        works = [
            EncodingWork(
                folder=self._work,
                part=part,
                kept=np.packbits(flags).tobytes(),
                tokenizer=self._partial / TOKENIZER,
                tokenizer_sha256=tokenizer.digest,
                held_out=grams,
                screen=side is domain.train,
            )
            for domain in domains
            for side in domain.sides
            for part, flags in zip(side.parts, side.kept, strict=True)
        ]
        works.sort(key=lambda work: -work.part.bytes)
        finished = self._execute(encode_part, works)
        stage = Stage("encoding", self._watch, [work.part.bytes for work in works])
        encoded: dict[str, PartTokens] = {}
        for place, tokens in finished:
            encoded[works[place].part.name] = tokens
            stage.finished(place, works[place].part.bytes, reused=tokens.reused)
        return encoded

    def _join(
        self, domains: Sequence[Domain], encoded: dict[str, PartTokens], tokenizer: Tokenizer
    ) -> dict[tuple[str, str], ShardHeader]:
        """The parts' tokens into a shard for each domain and split."""
        sides = [
            (domain.name, split, side) for domain in domains for split, side in zip(SPLITS, domain.sides, strict=True)
        ]
        parts = [part for _, _, side in sides for part in side.parts]
        stage = Stage("joining", self._watch, [encoded[part.name].bytes for part in parts])
        places = iter(range(len(parts)))

        def joined(side: Side) -> Iterator[TextPart]:
            for part in side.parts:
                yield part
                stage.finished(next(places), encoded[part.name].bytes)

        return {
            (name, split): join_parts(
                self._work,
                joined(side),
                shard_path(self._partial, name, split),
                vocab_size=tokenizer.vocab_size,
                tokenizer_sha256=tokenizer.digest,
            )
            for name, split, side in sides
        }

    def _require_validation(self, domain: Domain, train_documents: int, validation_tokens: int) -> None:
        if validation_tokens >= MIN_VALIDATION_TOKENS and train_documents > 0:
            return
        fraction = self._spec.held_out_fraction
        raise UserError(
            f"domain {domain.name!r} is too small: of its {domain.train.documents + domain.val.documents:,} documents "
            f"{domain.val.documents:,} were held out (held_out_fraction {fraction:g}), {validation_tokens:,} tokens where "
            f"{MIN_VALIDATION_TOKENS} are needed, and {train_documents:,} are left for training; give it more documents, "
            f"raise held_out_fraction, or cut long documents with max_document_bytes"
        )
