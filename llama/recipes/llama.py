"""LLaMA's own numbers (Touvron et al. 2023)."""

from __future__ import annotations

from llama.accounting import count_parameters
from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Touvron et al. 2023 (arXiv 2302.13971), table 2 and section 2.3: batches of 4M tokens, 2,000 steps of warm-up. Sizes
    between 13.0B and 32.5B split at their geometric mean; the paper says nothing below 6.7B, where 3e-4 is low.
    """
    batch = whole_sequences(own.batch_tokens or 2**22, model)
    large = count_parameters(model).n_params > 20.6e9
    return Numbers(peak_lr=1.5e-4 if large else 3e-4, batch_tokens=batch, warmup_tokens=2000 * batch)


RULE = Rule(numbers, "cosine")
