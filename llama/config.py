"""What decides one trained model's numbers: `RunConfig`. Frozen, validated, and hashed into the run's key.

Where its corpus lies and how often a run is checkpointed change no number and are no part of it. The kind of device and the
number of threads change the order of sums, and so last bits: they are no part of it either, or no run could go on elsewhere.
No torch here: planning and analysis read configs and must start fast.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Version of the projection that `RunConfig.key` hashes. Raise it when a field is added or its meaning changes.
KEY_VERSION = 2

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

DType = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]
ActivationCheckpointing = Literal["none", "selective", "full"]
AttentionKernel = Literal["flash", "math"]


class Config(BaseModel):
    """Base of every record that a person or a file may write: no unknown fields, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelConfig(Config):
    """A LLaMA's shape (Touvron et al. 2023, section 2.2)."""

    vocab_size: Positive
    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    n_kv_heads: Positive
    """Fewer than `n_heads` is grouped-query attention; LLaMA has as many."""
    d_ff: Positive
    context_length: Positive
    """Tokens in a training sequence."""
    rope_theta: PositiveFloat
    norm_eps: PositiveFloat
    tied_head: bool

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}")
        if self.d_head % 2:
            raise ValueError(f"d_model / n_heads is {self.d_head}: rotary embedding needs an even head size")
        return self


def llama_d_ff(d_model: int, multiple_of: int) -> int:
    """LLaMA's feed-forward width: 2/3 of 4 d, rounded up to a multiple (section 2.2; 256 for the released sizes)."""
    return multiple_of * math.ceil(8 * d_model / 3 / multiple_of)


#: As in LLaMA's released code.
ROPE_THETA = 10_000.0
NORM_EPS = 1e-5


def llama_shape(
    d_model: int, *, n_layers: int, n_heads: int, d_ff_multiple_of: int, vocab_size: int, context_length: int
) -> ModelConfig:
    """A LLaMA of a width, depth and number of heads, with all else as in the released ones: every head has its own keys and
    values, the head is not tied to the embedding.
    """
    return ModelConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_ff=llama_d_ff(d_model, multiple_of=d_ff_multiple_of),
        context_length=context_length,
        rope_theta=ROPE_THETA,
        norm_eps=NORM_EPS,
        tied_head=False,
    )


class DataConfig(Config):
    """Which tokens a run sees. The digest covers the shards and the tokenizer; the weights are by domain and sum to 1."""

    corpus_digest: str
    weights: dict[str, PositiveFloat]
    validation_tokens: Positive
    """Held-out tokens scored at the end of a run, shared evenly between the domains."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        total = math.fsum(self.weights.values())
        if not self.weights or abs(total - 1) > 1e-6:
            raise ValueError(f"domain weights sum to {total:.6g}; they must sum to 1")
        return self


class Transfer(Config):
    """The shape that a recipe's numbers were tuned on, where a parametrization carries them to other shapes."""

    base_width: Positive
    base_layers: Positive


class Recipe(Config):
    """The optimiser's numbers, as a named rule of `llama.recipes` worked them out for the run's planned N and D."""

    name: str
    peak_lr: PositiveFloat
    batch_sequences: Positive
    """Sequences of `context_length` tokens in one step."""
    warmup_tokens: Annotated[int, Field(ge=0)]
    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    eps: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    clip_norm: PositiveFloat
    schedule: Literal["wsd", "cosine"]
    final_lr_ratio: Fraction
    """Learning rate that the schedule comes down to as the last step ends, as a share of the peak."""
    cooldown_fraction: Fraction
    """Share of a WSD run's steps in its cooldown (Haegele et al. 2024: 0.2)."""
    cooldown_min_steps: Annotated[int, Field(ge=0)]
    reference_tokens: Positive
    """The D that the rule was given: a trunk's stated horizon, any other run's own tokens."""
    transfer: Transfer | None
    """CompleteP's base shape, from which the rate, decay and epsilon of each weight follow. None: one of each for all."""
    skip_sigma: PositiveFloat | None
    """An update whose loss or gradient norm is not finite, or so many deviations above the recent mean, is skipped; None
    skips none."""

    def cooldown_steps(self, steps: int) -> int:
        """Steps of the cooldown that a run of so many steps should have. Its start is rounded: `cooldown_start_step`."""
        return max(round(self.cooldown_fraction * steps), self.cooldown_min_steps)


class CommandTrainer(Config):
    """Another program that trains, in place of `llama.trainer` (docs/trainer-command.md)."""

    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """The program and its arguments; relative to the folder of the sweep's YAML."""
    version: Annotated[str, Field(min_length=1)]
    """Its user's word for what it does. Runs of another version are other runs."""


class RunConfig(Config):
    """All that decides one trained model's numbers.

    A run with `tokens=None` is a *trunk*: a WSD run at constant learning rate, as long as its branches need. A run with a
    `parent` is a *branch*: the parent's numbers up to `fork_step`, then its own cooldown. Any other run stands alone.
    """

    model: ModelConfig
    data: DataConfig
    recipe: Recipe
    tokens: Positive | None
    seed: Annotated[int, Field(ge=0)]
    micro_batch_sequences: Positive
    """Sequences that go through the model at once; gradients add up to the batch. Sums in another order have other bits."""
    activation_checkpointing: ActivationCheckpointing
    """Which activations are recomputed in the backward pass instead of kept. A compiler may fuse the same sums otherwise."""
    dtype: DType
    """Compute precision; master weights, gradients and optimiser state are float32."""
    compile: bool
    attention_kernel: AttentionKernel
    parent: str | None = None
    """Key of the trunk that a branch forks from."""
    fork_step: int | None = None
    # Left out of the key and of config.json where it is our own, as in every run from before there were others.
    trainer: CommandTrainer | None = Field(default=None, exclude_if=lambda value: value is None)
    """What trains the run; None is `llama.trainer`."""

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.tokens is not None and self.tokens % self.batch_tokens:
            raise ValueError(f"tokens {self.tokens:,} is not a whole number of batches of {self.batch_tokens:,}")
        if self.tokens is None and self.recipe.schedule != "wsd":
            raise ValueError("a trunk (tokens: null) needs the wsd schedule: a cosine run has an end")
        batch, micro = self.recipe.batch_sequences, self.micro_batch_sequences
        if batch % micro:
            raise ValueError(f"micro_batch_sequences {micro} does not divide the batch's {batch}: {divisors(batch)} do")
        if (self.parent is None) != (self.fork_step is None):
            raise ValueError("a branch names both its parent and its fork_step")
        if self.parent is not None and self.parent != self.trunk().key:
            raise ValueError(f"parent {self.parent} is not the key of this branch's trunk, {self.trunk().key}")
        if self.fork_step is not None and (self.tokens is None or self.fork_step != self.cooldown_start_step):
            raise ValueError("a branch forks where its cooldown starts")
        if self.trainer is not None and (self.is_trunk or self.parent is not None):
            raise ValueError("a run that a command trains stands alone: it is no trunk and no branch")
        return self

    @property
    def batch_tokens(self) -> int:
        """Tokens in one optimiser step."""
        return self.recipe.batch_sequences * self.model.context_length

    def own_tokens(self, step: int) -> int:
        """That the run itself has trained on at `step`: what came before its fork is its trunk's."""
        return max(0, step - (self.fork_step or 0)) * self.batch_tokens

    @property
    def is_trunk(self) -> bool:
        return self.tokens is None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the whole run; None for a trunk."""
        return None if self.tokens is None else self.tokens // self.batch_tokens

    @property
    def cooldown_start_step(self) -> int | None:
        """First step of a WSD cooldown; None for a trunk or a cosine run.

        Rounded down to a log point, so that no window of the journal lies across a fork.
        """
        if self.steps is None or self.recipe.schedule != "wsd":
            return None
        cooldown = self.recipe.cooldown_steps(self.steps)
        start = max(0, self.steps - cooldown)
        return start - start % self.log_every_steps if cooldown else start

    @property
    def log_every_steps(self) -> int:
        """Journal cadence: about 100 points over the recipe's horizon, the same for a trunk and its branches."""
        return max(1, self.recipe.reference_tokens // self.batch_tokens // 100)

    def trunk(self) -> RunConfig:
        """The trunk whose numbers this WSD run shares up to its cooldown: the same but for tokens and cooldown."""
        recipe = self.recipe.model_copy(update={"cooldown_fraction": 0.0, "cooldown_min_steps": 0})
        return self.model_copy(update={"recipe": recipe, "tokens": None, "parent": None, "fork_step": None})

    @property
    def key(self) -> str:
        """The run's id: 16 hex digits of SHA-256 over a versioned, canonical JSON of every field."""
        return digest({"key_version": KEY_VERSION, **self.model_dump(mode="json")})[:16]


def divisors(number: int) -> str:
    """All divisors of a number, as a message lists them."""
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
