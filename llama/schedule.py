"""Learning rate as a function of the step. No torch: plans draw it before anything runs."""

from __future__ import annotations

import math

from llama.config import RunConfig


def warmup_steps(config: RunConfig) -> int:
    """Warm-up is stated in tokens, so that runs of different batch warm up alike."""
    return math.ceil(config.recipe.warmup_tokens / config.batch_tokens)


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of the update that takes the model from `step` to `step + 1`.

    Linear warm-up; then constant with a 1-sqrt cooldown (WSD, Haegele et al. 2024, eq. 1) or a half cosine to the final
    ratio (Touvron et al. 2023, section 2.3). A trunk has no cooldown.
    """
    recipe, warmup = config.recipe, warmup_steps(config)
    if step < warmup:
        return recipe.peak_lr * (step + 1) / warmup
    if recipe.schedule == "cosine":
        assert config.steps is not None  # a validated cosine run has an end
        progress = (step - warmup) / max(1, config.steps - warmup)
        return recipe.peak_lr * _between(recipe.final_lr_ratio, 0.5 * (1 + math.cos(math.pi * progress)))
    start = config.cooldown_start_step
    if start is None or config.steps is None or step < start:
        return recipe.peak_lr
    return recipe.peak_lr * _between(recipe.final_lr_ratio, 1 - math.sqrt((step - start) / (config.steps - start)))


def _between(low: float, share: float) -> float:
    return low + (1 - low) * share
