"""A learning rate by width alone, from this project's CPU pilot."""

from __future__ import annotations

from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """LR as 1/width, the scaling of muP's hidden matrices under Adam (Yang et al. 2022, table 8), anchored on this
    project's CPU pilot: 1.6e-2 at width 16, 8e-3 at 32, 4e-3 at 64 were best (vocabulary 512, context 128, batches of
    1,024 tokens). Warm-up is 20 steps, the memory 1/(1 - beta2) of Adam's second moment (Ma & Yarats 2021): longer would
    eat the small budgets.
    """
    batch = whole_sequences(own.batch_tokens or 1024, model)
    return Numbers(peak_lr=0.256 / model.d_model, batch_tokens=batch, warmup_tokens=20 * batch)


RULE = Rule(numbers, "wsd")
