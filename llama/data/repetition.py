"""How often a run sees its tokens, from counts alone: planning opens no corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama.data.quotas import BLOCK_SEQUENCES, block_quotas, window_count
from llama.errors import UserError
from llama.metric_names import REPETITIONS, UNIQUE_TOKENS, epochs_of

#: Up to about four epochs repeated tokens are worth nearly as much as new ones (Muennighoff et al. 2023, section 5).
EPOCHS_WORTH_NEW = 4.0


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """How often a run saw its tokens."""

    unique_tokens: int
    """Distinct tokens among those it trained on."""
    repetitions: float
    """Tokens seen over unique ones: 1 where nothing came twice."""
    epochs: dict[str, float]
    """Passes over each domain."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """By the names that run folders and MLflow have for them."""
        passes: dict[str, float | None] = {epochs_of(domain): count for domain, count in self.epochs.items()}
        return {UNIQUE_TOKENS: self.unique_tokens, REPETITIONS: self.repetitions, **passes}


def repetition(
    train_tokens: Mapping[str, int], weights: Mapping[str, float], *, context_length: int, tokens: int
) -> Repetition:
    """How often a run of `tokens` sees its domains, from their training token counts alone and alike for every seed.

    Exact for whole blocks of 1,024 sequences; a run that ends inside a block may be off by that block's order.

    Raises:
        UserError: as `Mixture`.
    """
    sequences = tokens / context_length
    unique = 0.0
    passes: dict[str, float] = {}
    for domain, quota in block_quotas(weights).items():
        if domain not in train_tokens:
            raise UserError(f"the corpus has no domain {domain!r}; it has {', '.join(sorted(train_tokens))}")
        windows = window_count(domain, train_tokens[domain], context_length)
        taken = sequences * quota / BLOCK_SEQUENCES
        unique += min(taken, windows)
        passes[domain] = taken / windows
    unique_tokens = round(unique * context_length)
    return Repetition(unique_tokens=unique_tokens, repetitions=tokens / max(unique_tokens, 1), epochs=passes)
