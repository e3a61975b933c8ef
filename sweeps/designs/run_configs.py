"""The `RunConfig` of a length that a sweep trains: its model, its recipe, and what it takes from the corpus and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llama.accounting import training_flops_per_token
from llama.config import DataConfig, ModelConfig, Recipe, RunConfig
from llama.errors import UserError
from llama.recipes import make_recipe
from llama.schedule import warmup_steps
from sweeps.designs.numerics import Numerics
from sweeps.designs.spec import RecipeSpec, SweepSpec

if TYPE_CHECKING:
    from llama.data.corpus import Corpus


class CorpusFacts(NamedTuple):
    """What a design needs to know of a built corpus."""

    digest: str
    vocab_size: int
    train_tokens: dict[str, int]
    """By domain."""
    validation_tokens: dict[str, int]
    """Held out, by domain."""

    @classmethod
    def of(cls, corpus: Corpus) -> CorpusFacts:
        return cls(
            digest=corpus.digest,
            vocab_size=corpus.vocab_size,
            train_tokens=corpus.train_tokens,
            validation_tokens={name: domain.validation_tokens for name, domain in corpus.domains.items()},
        )


def run_config(
    spec: SweepSpec,
    corpus: CorpusFacts,
    numerics: Numerics,
    model: ModelConfig,
    recipe: Recipe,
    steps: int,
    seed: int,
) -> RunConfig:
    """A run of so many steps, without a parent."""
    # A trunk's horizon decides for all its branches.
    planned_flops = recipe.reference_tokens * training_flops_per_token(model)
    return RunConfig(
        model=model,
        data=DataConfig(
            corpus_digest=corpus.digest, weights=spec.weights, validation_tokens=spec.evaluation.validation_tokens
        ),
        recipe=recipe,
        tokens=steps * recipe.batch_sequences * model.context_length,
        seed=seed,
        dtype=numerics.dtype,
        compile=planned_flops >= numerics.compile_from_flops,
        attention_kernel=numerics.attention_kernel,
        micro_batch_sequences=micro_batch(recipe.batch_sequences, spec.micro_batch),
        activation_checkpointing=spec.activation_checkpointing,
        trainer=spec.trainer,
    )


def too_short(config: RunConfig) -> str | None:
    """A run whose rate never reached its peak, or had only just, is no point of a law."""
    assert config.steps is not None  # a cell has a length
    warmup, cooldown_start = warmup_steps(config), config.cooldown_start_step
    if cooldown_start is not None and cooldown_start < max(1, warmup):
        return f"{config.steps} steps: the cooldown would start at step {cooldown_start}, the warm-up takes {warmup}"
    if cooldown_start is None and 2 * warmup > config.steps:
        return f"{config.steps} steps: the warm-up takes {warmup}, over half of them"
    return None


def lone_run(
    spec: SweepSpec,
    corpus: CorpusFacts,
    numerics: Numerics,
    model: ModelConfig,
    tokens: int,
    recipe: RecipeSpec,
    *,
    lr_multiplier: float = 1.0,
    seed: int,
) -> RunConfig:
    """A run from scratch of any model, whatever the schedule: no trunk, so that its recipe is the one for its own tokens.

    Raises:
        UserError: it is too short for the recipe's batch, warm-up and cooldown.
    """
    made = make_recipe(recipe.name, model, tokens, recipe, lr_multiplier=lr_multiplier)
    steps = round(tokens / (made.batch_sequences * model.context_length))
    config = run_config(spec, corpus, numerics, model, made, steps, seed) if steps else None
    reason = too_short(config) if config is not None else "less than half a batch"
    if config is None or reason:
        raise UserError(
            f"{tokens:,} tokens at width {model.d_model} in batches of {made.batch_sequences * model.context_length:,}: "
            f"{reason}. Take longer budgets, smaller batches, or a shorter recipe.warmup_tokens"
        )
    return config


def micro_batch(batch_sequences: int, at_most: int | None) -> int:
    """The largest part of a batch, of equal parts, that is no larger than a person set; the batch itself where none is set."""
    most = min(at_most or batch_sequences, batch_sequences)
    return next(size for size in range(most, 0, -1) if batch_sequences % size == 0)
