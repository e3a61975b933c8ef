"""LLaMA's pre-training data as a named mixture (Touvron et al. 2023, table 1), with what stands in for each part today.

The table prints shares, epochs over 1.4T tokens and sizes on disk, but no tokens. A run of D tokens passes over a subset
share * D / tokens times, so its epochs follow from its size as far as the bytes that a token takes are known. The figures
here are the ones that the table itself implies, to three digits; with them the epochs column comes out as printed, in all
seven rows. One figure for all rows can't do it: the implied ones run from 2.79 (ArXiv) to 3.95 (C4), so some row would be
off by 17 % or more. A 32,000 vocabulary trained by `llama.data.tokenizer` on other text of these kinds took 2.95 bytes a token
of LaTeX, 3.11 of questions and answers, 3.32 of technical proposals and 3.39 of an encyclopedia, within 9 % of the rows they
resemble, but 3.90 of books, where the table implies 3.01 in many languages.

The text itself is not all public: Books3 is withdrawn, the code was drawn from BigQuery, and the open reproduction of the
whole (`togethercomputer/RedPajama-Data-1T`) is loaded by a script, which the `datasets` library runs no more. Each row names a
part or a stand-in that streams as plain files. `sweeps/studies/llama-table1.yaml` is a study on them, ready to be cut down.
"""

from __future__ import annotations

from typing import NamedTuple

from llama.data.sources import DomainSpec

PRINTED_TOKENS = 1.4e12
"""Training tokens that the table's epochs are of: those of the 33B and 65B models."""


class Subset(NamedTuple):
    """One row of the table."""

    name: str
    original: str
    """What LLaMA took (section 2.1)."""
    share: float
    """Of the training tokens."""
    printed_epochs: float
    """Over `PRINTED_TOKENS`, as printed."""
    disk_bytes: float
    """As printed, GB read as 10^9."""
    bytes_per_token: float
    """What the three columns imply together."""
    source: DomainSpec
    """Its public part or stand-in, weighted by its share."""

    @property
    def tokens(self) -> float:
        """Unique tokens."""
        return self.disk_bytes / self.bytes_per_token

    def epochs(self, budget_tokens: float) -> float:
        """Passes over the subset in a run of so many tokens."""
        return self.share * budget_tokens / self.tokens


def _dataset(share: float, name: str, *, config: str | None = None, split: str | None = None) -> DomainSpec:
    return DomainSpec(weight=100 * share, dataset=name, config=config, split=split, text_field="text")


TABLE_1 = (
    Subset(
        name="common_crawl",
        original="five CommonCrawl dumps of 2017 to 2020 through the CCNet pipeline",
        share=0.67,
        printed_epochs=1.10,
        disk_bytes=3.3e12,
        bytes_per_token=3.87,
        source=_dataset(0.67, "HuggingFaceFW/fineweb", config="sample-10BT"),
    ),
    Subset(
        name="c4",
        original="C4, which is public",
        share=0.15,
        printed_epochs=1.06,
        disk_bytes=783e9,
        bytes_per_token=3.95,
        source=_dataset(0.15, "allenai/c4", config="en"),
    ),
    Subset(
        name="github",
        original="GitHub on Google BigQuery: Apache, BSD and MIT licences, exact duplicates of files left out",
        share=0.045,
        printed_epochs=0.64,
        disk_bytes=328e9,
        bytes_per_token=3.33,
        source=_dataset(0.045, "common-pile/stackv2_edu_filtered"),
    ),
    Subset(
        name="wikipedia",
        original="Wikipedia dumps of June to August 2022 in 20 languages",
        share=0.045,
        printed_epochs=2.45,
        disk_bytes=83e9,
        bytes_per_token=3.23,
        source=_dataset(0.045, "wikimedia/wikipedia", config="20231101.en"),
    ),
    Subset(
        name="books",
        original="Project Gutenberg and Books3, books that overlap by 90 % left out",
        share=0.045,
        printed_epochs=2.23,
        disk_bytes=85e9,
        bytes_per_token=3.01,
        source=_dataset(0.045, "manu/project_gutenberg", split="en"),
    ),
    Subset(
        name="arxiv",
        original="ArXiv's LaTeX, without comments, bibliographies and what stands before the first section",
        share=0.025,
        printed_epochs=1.06,
        disk_bytes=92e9,
        bytes_per_token=2.79,
        source=_dataset(0.025, "common-pile/arxiv_papers_filtered"),
    ),
    Subset(
        name="stack_exchange",
        original="a StackExchange dump, its 28 largest sites, answers by score",
        share=0.02,
        printed_epochs=1.03,
        disk_bytes=78e9,
        bytes_per_token=2.87,
        source=_dataset(0.02, "common-pile/stackexchange_filtered"),
    ),
)


def epochs_by_domain(budget_tokens: float) -> dict[str, float]:
    """Passes over each of LLaMA's subsets in a run of so many tokens, mixed by the table's shares."""
    return {subset.name: subset.epochs(budget_tokens) for subset in TABLE_1}
