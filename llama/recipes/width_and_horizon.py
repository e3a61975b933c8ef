"""A learning rate by width and horizon, measured by this project for models of 20 thousand to 400 thousand parameters."""

from __future__ import annotations

from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """lr = 6e-3 (width / 32)^-0.7 (D / 5e5)^-0.3 at batches of 512 tokens: what `docs/studies/learning-rate.md` measured.
    The best rate falls as the horizon grows, by about D^-0.32 in Bjorck et al. 2024 (arXiv 2409.19913), so a rate by width
    alone is too high for a small model trained long. Small batches, since a large model on few tokens needs steps more than
    it needs smooth gradients. Warm-up is 40 steps, twice 1/(1 - beta2).
    """
    batch = whole_sequences(own.batch_tokens or 512, model)
    lr = 6e-3 * (model.d_model / 32) ** -0.7 * (tokens / 5e5) ** -0.3
    return Numbers(peak_lr=lr, batch_tokens=batch, warmup_tokens=40 * batch)


RULE = Rule(numbers, "wsd")
