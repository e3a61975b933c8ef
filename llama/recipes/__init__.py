"""Named, cited rules that turn a planned run (its shape and its tokens) into the optimiser's numbers.

The published rules disagree, so none is hidden behind a default: a sweep names the one it takes, and each rule names the
parameter count that its authors used. A rule is a file of its name. What it worked out, with what a person set over it, is the
run's `Recipe`. `docs/recipes.md` says which to take when.
"""

from __future__ import annotations

import math
from typing import Any

from llama.config import ModelConfig, Recipe
from llama.errors import UserError
from llama.recipes import completep, deepseek, inverse_width, llama, porian, step_law, tuned, width_and_horizon
from llama.recipes.rule import RULE_INPUTS, Overrides, Rule, Schedule

__all__ = ["RULES", "Overrides", "Schedule", "make_recipe", "recipe_problems"]

RULES: dict[str, Rule] = {
    "width_and_horizon": width_and_horizon.RULE,
    "inverse_width": inverse_width.RULE,
    "completep": completep.RULE,
    "llama": llama.RULE,
    "step_law": step_law.RULE,
    "deepseek": deepseek.RULE,
    "porian": porian.RULE,
    "tuned": tuned.RULE,
}

#: Haegele et al. 2024 (arXiv 2405.18392): a 1-sqrt cooldown over the last 20 % of the steps matches cosine.
COOLDOWN_FRACTION = 0.2
#: A cooldown of a handful of steps cools nothing; the shortest runs of a sweep get at least this many.
COOLDOWN_MIN_STEPS = 20


def make_recipe(
    name: str, model: ModelConfig, tokens: int, overrides: Overrides | None = None, *, lr_multiplier: float = 1.0
) -> Recipe:
    """The rule `name` of `RULES`, worked out for a model and its planned tokens, with a person's overrides on top.

    `tokens` is the D that the rule is given: a trunk's stated horizon, any other run's own tokens.

    Raises:
        UserError: an input that the rule needs is missing or not its own, or it does not suit the model.
    """
    rule, own = RULES[name], overrides or Overrides()
    if problems := recipe_problems(name, own):
        raise UserError("; ".join(f"recipe.{field}: {message}" for field, message in problems))
    numbers = rule.numbers(model, tokens, own)
    schedule = own.schedule or rule.schedule
    batch_sequences = numbers.batch_tokens // model.context_length
    values: dict[str, Any] = {
        "peak_lr": numbers.peak_lr,
        "warmup_tokens": round(numbers.warmup_tokens),
        "beta1": 0.9,
        "beta2": numbers.beta2,
        "eps": numbers.eps,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "final_lr_ratio": 0.0 if schedule == "wsd" else 0.1,  # 1-sqrt ends at 0; LLaMA's cosine at 10 % of the peak
        "cooldown_fraction": COOLDOWN_FRACTION if schedule == "wsd" else 0.0,
        "cooldown_min_steps": COOLDOWN_MIN_STEPS if schedule == "wsd" else 0,
        "skip_sigma": None,
    }
    values |= own.model_dump(include=set(values), exclude_none=True)
    if own.beta2_half_life_tokens is not None:
        half_lives = numbers.batch_tokens / own.beta2_half_life_tokens
        values["beta2"] = 1 - _six_digits(-math.expm1(-math.log(2) * half_lives))
    values["peak_lr"] = _six_digits(values["peak_lr"] * lr_multiplier)
    return Recipe(
        name=name,
        schedule=schedule,
        batch_sequences=batch_sequences,
        reference_tokens=tokens,
        transfer=numbers.transfer,
        **values,
    )


def recipe_problems(name: str, own: Overrides) -> list[tuple[str, str]]:
    """(field, message) pairs: inputs that a rule does not take, and those that it misses."""
    rule = RULES[name]
    foreign = [field for field in RULE_INPUTS if getattr(own, field) is not None and field not in rule.inputs]
    owners = {field: next(other for other in RULES if field in RULES[other].inputs) for field in foreign}
    return [(field, f"recipe {name} takes none; it goes with {owners[field]}") for field in foreign] + rule.problems(
        own
    )


def _six_digits(value: float) -> float:
    """Powers may differ in the last bit between machines, and a run's key must not."""
    return float(f"{value:.6g}")
