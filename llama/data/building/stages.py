"""A build from beginning to end: read, screen and learn the tokenizer, encode, join.

All that takes time is pieces of work on files, done by this process or shared out by an executor; the bytes are the same. What
must be known of all documents at once is decided here, from their hashes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from llama.data.building.choosing import first_copies
from llama.data.building.domains import Domain, Side, domain_manifest, overlaps
from llama.data.building.encoding import EncodedShard, EncodingWork, PartTokens, encode_part, join_parts
from llama.data.building.executor import Execute
from llama.data.building.held_out import StoredGrams, merge_parts
from llama.data.building.learning import DomainSample, LearnedTokenizer, LearningWork, learn_tokenizer
from llama.data.building.progress import Stage, Watch
from llama.data.building.reading import SectionTexts, cut_sections, read_section
from llama.data.building.screening import ScreenedPart, ScreeningWork, screen_part
from llama.data.building.texts import PART_BYTES, PackedFlags, TextPart
from llama.data.corpus import (
    BUILD_VERSION,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    CorpusManifest,
    content_digest,
    shard_path,
)
from llama.data.sources import CorpusSpec, Source
from llama.data.tokenizer import Tokenizer
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
        held_out = merge_parts(self._work, [part for domain in domains for part in domain.val.parts])
        learned, screened = self._learn_and_screen(domains, StoredGrams.of(held_out, self._work))
        tokenizer = Tokenizer.load(self._partial / TOKENIZER, sha256=learned.sha256)
        shards = self._encode(domains, screened, tokenizer)
        overlap = overlaps(self._work, domains, held_out)
        manifests = {
            domain.name: domain_manifest(
                domain,
                origin=self._sources[domain.name].origin,
                screened=[screened[part.name] for part in domain.train.parts],
                shards=[shards[domain.name, split] for split in SPLITS],
                sample_bytes=learned.sample_bytes[domain.name],
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
            tokenizer_sample_sha256=learned.sample_sha256,
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

    def _learn_and_screen(
        self, domains: Sequence[Domain], held_out: StoredGrams
    ) -> tuple[LearnedTokenizer, dict[str, ScreenedPart]]:
        """The tokenizer, which one worker learns while others screen; and every text part screened, by the part's name."""
        total_weight = sum(domain.weight for domain in self._spec.domains.values())
        learning = LearningWork(
            folder=self._work,
            domains=[
                DomainSample(
                    domain=domain.name,
                    parts=domain.train.parts,
                    kept=[PackedFlags.pack(flags) for flags in domain.train.kept],
                    limit_bytes=int(
                        self._spec.tokenizer.sample_bytes * self._spec.domains[domain.name].weight / total_weight
                    ),
                )
                for domain in domains
            ],
            held_out=held_out,
            vocab_size=self._spec.tokenizer.vocab_size,
        )
        screening = [
            ScreeningWork(
                folder=self._work,
                part=part,
                kept=PackedFlags.pack(flags),
                held_out=held_out,
                is_held_out=side is domain.val,
            )
            for domain in domains
            for side in domain.sides
            for part, flags in zip(side.parts, side.kept, strict=True)
        ]
        screening.sort(key=lambda work: -work.part.bytes)
        works: list[LearningWork | ScreeningWork] = [learning, *screening]
        finished = self._execute(_learn_or_screen, works)
        sample_bytes = self._spec.tokenizer.sample_bytes
        stage = Stage("screening", self._watch, [sample_bytes, *(work.part.bytes for work in screening)])
        learned: LearnedTokenizer | None = None
        screened: dict[str, ScreenedPart] = {}
        for place, result in finished:
            if isinstance(result, LearnedTokenizer):
                learned = result
                shutil.copyfile(self._work / TOKENIZER, self._partial / TOKENIZER)
                stage.finished(place, 0)
            else:
                part = screening[place - 1].part
                screened[part.name] = result
                stage.finished(place, part.bytes, reused=result.reused)
        assert learned is not None  # the first of the works
        return learned, screened

    def _encode(
        self, domains: Sequence[Domain], screened: dict[str, ScreenedPart], tokenizer: Tokenizer
    ) -> dict[tuple[str, str], EncodedShard]:
        """Every text part into tokens, and as soon as a domain's are done into its shard; by domain and split."""
        sides = [
            (domain.name, split, side)
            for split in SPLITS  # held-out parts, which are small, come last: no worker is left alone with a large one
            for domain in domains
            for side in [domain.sides[SPLITS.index(split)]]
        ]
        works = [
            EncodingWork(
                folder=self._work,
                part=part,
                kept=screened[part.name].kept,
                tokenizer=self._partial / TOKENIZER,
                tokenizer_sha256=tokenizer.digest,
            )
            for _, _, side in sides
            for part in sorted(side.parts, key=lambda part: -part.bytes)
        ]
        finished = self._execute(encode_part, works)
        stage = Stage("encoding", self._watch, [work.part.bytes for work in works])
        encoded: dict[str, PartTokens] = {}
        shards: dict[tuple[str, str], EncodedShard] = {}

        def join() -> None:
            for name, split, side in sides:
                if (name, split) not in shards and all(part.name in encoded for part in side.parts):
                    shards[name, split] = join_parts(
                        self._work,
                        [(part, encoded[part.name]) for part in side.parts],
                        shard_path(self._partial, name, split),
                        vocab_size=tokenizer.vocab_size,
                        tokenizer_sha256=tokenizer.digest,
                    )

        for place, tokens in finished:
            encoded[works[place].part.name] = tokens
            stage.finished(place, works[place].part.bytes, reused=tokens.reused)
            join()
        return shards

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


def _learn_or_screen(work: LearningWork | ScreeningWork) -> LearnedTokenizer | ScreenedPart:
    return learn_tokenizer(work) if isinstance(work, LearningWork) else screen_part(work)
