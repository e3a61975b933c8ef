"""What a sweep's runs learned from and are scored on, as MLflow's dataset inputs: read from the corpus, without MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama.data.corpus import MANIFEST, CorpusManifest
from llama.errors import UserError
from llama.records import read_record

DIGEST_LENGTH = 32
"""MLflow takes 36 characters; the whole digest is a tag and a param."""
DOMAINS_IN_NAME = 4


@dataclass(frozen=True, kw_only=True)
class DatasetInput:
    """One split of a corpus, in MLflow's terms."""

    name: str
    digest: str
    context: str
    """`training` or `validation`: what MLflow's UI shows beside the name."""
    source: str
    schema: str
    profile: str
    """Tokens, bytes and documents, in all and by domain."""


def corpus_inputs(folder: Path) -> list[DatasetInput]:
    """Both splits of the corpus in `folder`; none where it is not at hand, as beside a copy of the run folders alone."""
    try:
        manifest = read_record(folder / MANIFEST, CorpusManifest)
    except UserError:  # a note is missing, which is no reason to mirror nothing
        return []
    if manifest is None:
        return []
    names = sorted(manifest.domains)
    name = "+".join(names) if len(names) <= DOMAINS_IN_NAME else f"{len(names)} domains"
    source = json.dumps({"uri": folder.absolute().as_uri()})
    return [
        DatasetInput(
            name=f"{name} {split}",
            digest=manifest.digest[:DIGEST_LENGTH],
            context=context,
            source=source,
            schema=_schema(manifest.vocab_size),
            profile=json.dumps(_profile(manifest, split)),
        )
        for split, context in (("train", "training"), ("validation", "validation"))
    ]


def _schema(vocab_size: int) -> str:
    """A stream of token ids, as MLflow describes an array."""
    ids = {"type": "tensor", "tensor-spec": {"dtype": "uint16" if vocab_size <= 2**16 else "uint32", "shape": [-1]}}
    return json.dumps({"mlflow_tensorspec": {"features": json.dumps([ids]), "targets": None}})


def _profile(manifest: CorpusManifest, split: str) -> dict[str, Any]:
    by_domain = {
        name: {
            "tokens": getattr(domain, f"{split}_tokens"),
            "bytes": getattr(domain, f"{split}_bytes"),
            "documents": getattr(domain, f"{split}_documents"),
        }
        for name, domain in sorted(manifest.domains.items())
    }
    totals = {unit: sum(counts[unit] for counts in by_domain.values()) for unit in ("tokens", "bytes", "documents")}
    flat = {f"{name}/{unit}": count for name, counts in by_domain.items() for unit, count in counts.items()}
    return {"vocab_size": manifest.vocab_size, **totals, **flat}
