"""DeepSeek LLM: learning rate and batch by compute (Bi et al. 2024)."""

from __future__ import annotations

from llama.accounting import count_parameters
from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Bi et al. 2024 (arXiv 2401.02954), eq. 1: lr = 0.3118 C^-0.125, batch = 0.2920 C^0.3271 tokens, C = M D with M the
    non-embedding training FLOPs a token, 72 L d^2 + 12 L d T for their shapes (eq. 2). Their 2,000 steps of warm-up are
    capped at a tenth of D; their schedule has steps down at 80 and 90 % of D, where ours cools down over the last fifth.
    """
    counts = count_parameters(model)
    matrices = counts.n_params_matmul - model.vocab_size * model.d_model
    compute = (6 * matrices + 12 * model.n_layers * model.d_model * model.context_length) * tokens
    batch = whole_sequences(own.batch_tokens or 0.2920 * compute**0.3271, model)
    return Numbers(0.3118 * compute**-0.125, batch_tokens=batch, warmup_tokens=min(2000 * batch, 0.1 * tokens))


RULE = Rule(numbers, "wsd")
