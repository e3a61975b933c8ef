"""The recipe that a tuning study found: `recipe.tuned` in the sweep's YAML."""

from __future__ import annotations

from llama.config import ModelConfig
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Learning rate and batch by the law of `own.tuned`. beta2, weight decay and the rest are what the study held fixed: where
    these were not the defaults, the study's YAML has them beside `tuned`.
    """
    law = own.tuned
    assert law is not None  # `problems` refuses
    batch = whole_sequences(own.batch_tokens or law.value(law.batch_tokens, model, tokens), model)
    return Numbers(law.value(law.peak_lr, model, tokens), batch_tokens=batch, warmup_tokens=law.warmup_steps * batch)


def problems(own: Overrides) -> list[tuple[str, str]]:
    if own.tuned is None:
        return [("name", "tuned follows the law that a tuning study found: the block tuned, with that law, is missing")]
    return []


RULE = Rule(numbers, "wsd", ("tuned",), problems)
