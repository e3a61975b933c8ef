"""What a rule takes and gives: a person's `Overrides` in, the `Numbers` that rules differ in out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from llama.config import Config, Fraction, ModelConfig, Positive, PositiveFloat, Transfer
from llama.recipes.tuned_law import TunedLaw

Schedule = Literal["wsd", "cosine"]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Overrides(Config):
    """What a person may set over a rule's numbers, and what some rules take beside them. None keeps the rule's."""

    peak_lr: PositiveFloat | None = None
    """One learning rate for every size: seldom what a scaling study wants. For `completep` it is the base shape's."""
    schedule: Schedule | None = None
    batch_tokens: Positive | None = None
    """Rounded to whole sequences."""
    warmup_tokens: int | None = Field(default=None, ge=0)
    beta1: Beta | None = None
    beta2: Beta | None = None
    beta2_half_life_tokens: int | None = Field(default=None, gt=0, le=10**12)
    """Set beta2 by the batch: 0.5^(batch / this), so that the second moment forgets half in as many tokens whatever the batch
    (Marek et al. 2025, arXiv 2507.07101, section 3). 0.95 at 0.5M tokens is a half-life of 7M."""
    eps: PositiveFloat | None = None
    weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    clip_norm: PositiveFloat | None = None
    final_lr_ratio: Fraction | None = None
    cooldown_fraction: Fraction | None = None
    cooldown_min_steps: int | None = Field(default=None, ge=0)
    skip_sigma: PositiveFloat | None = None
    """Skip updates this many deviations above the recent loss or gradient norm, and those that are not finite."""
    base_width: Positive | None = None
    """`completep`: the width that `peak_lr` was tuned at."""
    base_layers: Positive | None = None
    """`completep`: the layers that `peak_lr` was tuned at."""
    base_d_head: Positive | None = None
    """`completep`: the head size that `peak_lr` was tuned at, and that every shape must have."""
    tuned: TunedLaw | None = None
    """`tuned`: the law to follow."""

    @model_validator(mode="after")
    def _check_beta2(self) -> Overrides:
        if self.beta2 is not None and self.beta2_half_life_tokens is not None:
            raise ValueError("beta2 and beta2_half_life_tokens both set beta2: give one of them")
        return self


#: The fields of `Overrides` that only some rules take.
RULE_INPUTS = ("base_width", "base_layers", "base_d_head", "tuned")


class Numbers(NamedTuple):
    """What the rules differ in. All share beta1 0.9, weight decay 0.1 and clipping at 1.0, as LLaMA has them."""

    peak_lr: float
    batch_tokens: int
    """Of whole sequences, so that rules which count warm-up in steps count those that are made."""
    warmup_tokens: float
    beta2: float = 0.95
    eps: float = 1e-8
    transfer: Transfer | None = None
    """The base shape where the numbers are to be carried from it to the model's by CompleteP."""


def whole_sequences(batch_tokens: float, model: ModelConfig) -> int:
    """The batch that is nearest in whole sequences of the model's context, one at least; in tokens."""
    return max(1, round(batch_tokens / model.context_length)) * model.context_length


class Rule(NamedTuple):
    """A recipe by name."""

    numbers: Callable[[ModelConfig, int, Overrides], Numbers]
    """From the model, its planned D, and what a person set: a batch set by hand reaches the rule, since warm-up and beta2 may
    depend on it."""
    schedule: Schedule
    inputs: tuple[str, ...] = ()
    """Those of `RULE_INPUTS` that it takes."""
    problems: Callable[[Overrides], list[tuple[str, str]]] = lambda own: []
    """(field, message) pairs: inputs that are missing or don't fit."""
