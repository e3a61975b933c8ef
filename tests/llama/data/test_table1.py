from __future__ import annotations

import math
from pathlib import Path

import pytest

import sweeps
from llama.data.repetition import repetition
from llama.data.table1 import PRINTED_TOKENS, TABLE_1, Subset, epochs_by_domain
from sweeps.designs.spec import load_sweep

#: As the paper prints it: share in per cent, epochs, size on disk.
PRINTED = """
common_crawl   67.0 1.10 3.3 TB
c4             15.0 1.06 783 GB
github          4.5 0.64 328 GB
wikipedia       4.5 2.45  83 GB
books           4.5 2.23  85 GB
arxiv           2.5 1.06  92 GB
stack_exchange  2.0 1.03  78 GB
"""
ROWS = [line.split() for line in PRINTED.split("\n") if line]


@pytest.mark.parametrize(("subset", "row"), list(zip(TABLE_1, ROWS, strict=True)), ids=[row[0] for row in ROWS])
def test_the_epochs_column_follows_from_shares_and_sizes(subset: Subset, row: list[str]) -> None:
    name, share, epochs, size, unit = row
    assert subset.name == name
    assert 100 * subset.share == pytest.approx(float(share))
    assert subset.disk_bytes == float(size) * {"TB": 1e12, "GB": 1e9}[unit]
    assert subset.printed_epochs == float(epochs)
    assert f"{epochs_by_domain(PRINTED_TOKENS)[name]:.2f}" == epochs


def test_the_shares_make_one_and_the_subsets_most_of_the_tokens() -> None:
    assert math.fsum(subset.share for subset in TABLE_1) == pytest.approx(1)
    assert sum(subset.tokens for subset in TABLE_1) == pytest.approx(1.264e12, rel=0.001)


def test_no_single_size_of_a_token_gives_the_column() -> None:
    implied = [subset.bytes_per_token for subset in TABLE_1]
    best = math.sqrt(min(implied) * max(implied))  # the figure that is least off in its worst row
    assert max(abs(best / each - 1) for each in implied) > 0.15


def test_the_mixture_passes_over_the_subsets_as_the_table_does() -> None:
    """By the loader's own count: shares are rounded to 1/1,024 of the sequences, up to 2.4 % of the smallest one."""
    tokens = {subset.name: round(subset.tokens) for subset in TABLE_1}
    weights = {subset.name: subset.share for subset in TABLE_1}
    for budget in (PRINTED_TOKENS, 1e12):
        drawn = repetition(tokens, weights, context_length=2048, tokens=int(budget))
        assert drawn.epochs == pytest.approx(epochs_by_domain(budget), rel=0.025)
    assert epochs_by_domain(1e12)["wikipedia"] == pytest.approx(2.45 / 1.4, abs=0.005)


def test_the_study_is_the_table() -> None:
    spec = load_sweep(Path(sweeps.__file__).parent / "studies" / "llama-table1.yaml")
    assert list(spec.corpus.domains) == [subset.name for subset in TABLE_1]
    cut = {"max_documents", "max_document_bytes"}
    for subset in TABLE_1:
        domain = spec.corpus.domains[subset.name]
        assert domain.max_documents is not None
        assert domain.model_dump(exclude=cut) == subset.source.model_dump(exclude=cut)
