"""`TunedLaw`: what a tuning study found, as a record that a sweep's YAML holds under `recipe.tuned`.

The law is in the YAML itself, not in a file that the YAML names: the sweep's digest covers it, the copy that a launch keeps is
whole, and a wrong number is refused at its own line.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from llama.accounting import count_parameters
from llama.config import Config, ModelConfig, Positive, PositiveFloat

Exponent = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Count = Literal["n_params", "n_params_non_embedding", "n_params_matmul"]


def _iso_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"found {text!r}; a date such as 2026-01-31 is right") from None
    return text


class Range(Config):
    """The values that the study tried."""

    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:,} is above high {self.high:,}")
        return self

    @property
    def middle(self) -> float:
        """In logarithms."""
        return float(self.low) ** 0.5 * float(self.high) ** 0.5

    def distance(self, value: float) -> float:
        """How many times a value is beyond the range; 1 inside it."""
        return max(1.0, self.low / value, value / self.high)


class PowerLaw(Config):
    """value = at_middle (N / middle of n)^n_exponent (D / middle of d)^d_exponent. An exponent of 0 is one number for all."""

    at_middle: PositiveFloat
    """The value at the middle, in logarithms, of the sizes and of the tokens that the study tried."""
    n_exponent: Exponent
    d_exponent: Exponent


class TunedLaw(Config):
    """Power laws of learning rate and batch, and where they come from."""

    study: str
    """Name or address of the study, for whoever asks where the numbers come from."""
    date: Annotated[str, AfterValidator(_iso_date)]
    """When it ended, as 2026-01-31."""
    objective: str
    """What was made small, such as `val/loss`."""
    counting: Count
    """What N counts."""
    n: Range
    """Sizes that were tried."""
    d: Range
    """Training tokens that were tried."""
    peak_lr: PowerLaw
    batch_tokens: PowerLaw
    warmup_steps: Annotated[int, Field(ge=0)]

    def size(self, model: ModelConfig) -> int:
        """A model's N as the law counts it."""
        return int(getattr(count_parameters(model), self.counting))

    def value(self, law: PowerLaw, model: ModelConfig, tokens: int) -> float:
        """One of the laws at a model and its planned tokens."""
        n, d = self.size(model) / self.n.middle, tokens / self.d.middle
        return law.at_middle * n**law.n_exponent * d**law.d_exponent
