"""Step Law: learning rate by size and tokens, batch by tokens (Li et al. 2025)."""

from __future__ import annotations

from llama.accounting import count_parameters
from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Li et al. 2025 (arXiv 2503.04715), eq. 1: lr = 1.797 N^-0.713 D^0.3075, batch = 0.581 D^0.571 tokens, the digits that
    their released fits average to (the text prints 1.79, 0.307 and 0.58). N has neither embedding nor head. Their runs warm up
    over 2,000 steps, which is capped here at a tenth of D, and come down to 1e-5 whatever the peak.
    """
    n = count_parameters(model).n_params_non_embedding
    batch = whole_sequences(own.batch_tokens or 0.581 * tokens**0.571, model)
    return Numbers(
        1.797 * n**-0.713 * tokens**0.3075, batch_tokens=batch, warmup_tokens=min(2000 * batch, 0.1 * tokens)
    )


RULE = Rule(numbers, "cosine")
