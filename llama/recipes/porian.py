"""Porian et al. 2024, as OLMo-core's ladder takes it: learning rate, batch and warm-up by size, beta2 by batch."""

from __future__ import annotations

from llama.accounting import count_parameters
from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Porian et al. 2024 (arXiv 2406.19146), rounded fits of section 4: batch = 160 (N/108e6)^(2/3) sequences of 2,048 tokens,
    lr = 0.0047 (N/108e6)^(-1/3), warm-up over N tokens. OLMo-core's WSD ladder halves the rate and takes beta2 0.99 for
    batches below 524,288 tokens, after their table 4. N leaves out the input embedding and counts the head, there as here.
    """
    n = count_parameters(model).n_params_matmul
    batch = whole_sequences(own.batch_tokens or 160 * 2048 * (n / 108e6) ** (2 / 3), model)
    return Numbers(
        peak_lr=0.5 * 0.0047 * (n / 108e6) ** (-1 / 3),
        batch_tokens=batch,
        warmup_tokens=n,
        beta2=0.95 if batch >= 524_288 else 0.99,
    )


RULE = Rule(numbers, "wsd")
