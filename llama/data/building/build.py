"""`build_corpus`: the finished corpus of these inputs, built by one process at a time where there is none.

    <storage>/corpora/.<digest>.partial/
        work/              text parts, token parts and their marks: about 1.6 bytes a byte of text, gone at the end
        tokenizer.model, <domain>.<split>.bin, corpus.json

Each finished piece of the work leaves a mark with its checksums, so a build that was killed goes on from there.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from llama.config import digest
from llama.data.building.executor import Execute, one_by_one
from llama.data.building.progress import Watch, in_lines
from llama.data.building.stages import Build
from llama.data.corpus import BUILD_VERSION, MANIFEST, Corpus, open_corpus
from llama.data.sources import CorpusSpec, open_source
from llama.errors import UserError


def build_corpus(
    spec: CorpusSpec,
    storage: Path,
    *,
    base: Path,
    report: Callable[[str], None],
    watch: Watch | None = None,
    execute: Execute = one_by_one,
) -> Corpus:
    """Build the corpus under `storage`, or take up the finished one that the same inputs gave before.

    The same inputs give the same bytes, whoever executes. A process holds a part of the text, the tokenizer and its sample,
    and the held-out text's grams; the one that calls also a byte a document. Relative paths in the spec are resolved against
    `base`. `report` gets a line of news now and then; `watch` follows the stages, by lines of `report` unless given.

    Raises:
        UserError: a source is absent, damaged or without a usable document; a domain is too small to hold any out;
            the tokenizer's vocabulary does not fit; the storage cannot be written.
    """
    sources = {name: open_source(name, spec.domains[name], base=base) for name in sorted(spec.domains)}
    input_digest = digest(
        {
            "build_version": BUILD_VERSION,
            "sentencepiece": version("sentencepiece"),
            "spec": spec.model_dump(mode="json"),
            "sources": {name: source.parts for name, source in sources.items()},
        }
    )
    folder = storage / "corpora" / input_digest[:16]
    if not (folder / MANIFEST).exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f".{folder.name}.lock"), report):
                if not (folder / MANIFEST).exists():  # else built while this process waited
                    partial = folder.with_name(f".{folder.name}.partial")
                    Build(spec, sources, base, partial, report, watch or in_lines(report), execute).into(
                        folder, input_digest
                    )
        except OSError as error:
            raise UserError(
                f"the corpus cannot be written in {folder.parent}: {error.strerror or error}; what is done of it stays, and "
                "the same command goes on from there"
            ) from error
    return open_corpus(folder, verify=True)


@contextmanager
def _locked(lock: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock, which ends with the process however that ends."""
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building this corpus: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
