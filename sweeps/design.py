"""From a spec to its runs and their segments.

A WSD sweep trains one constant-rate trunk for each size, seed and learning rate; every budget is a cooldown branch off it
(Haegele et al. 2024). The trunk is cut into segments where its branches fork, so that a branch can start as soon as its
fork exists. A cosine sweep is runs that stand alone. Nothing here trains, reads a corpus or knows Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import DataConfig, ModelConfig, Recipe, RunConfig
from llama.errors import UserError
from llama.recipes import make_recipe
from llama.schedule import warmup_steps
from llama.sweep_index import SweepRun
from sweeps.numerics import Numerics
from sweeps.segments import Segment, segments_of
from sweeps.spec import BudgetUnit, RecipeSpec, SweepSpec

if TYPE_CHECKING:
    from llama.data.corpus import Corpus

#: How a budget reads in a run's name: `w32-C3.2e11-s0`, `w32-D4e6-s0`, `w32-R20-s0`.
_BUDGET_LETTER: dict[BudgetUnit, str] = {"flops": "C", "tokens": "D", "tokens_per_parameter": "R"}


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


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run, a trunk included, with its part in the sweep."""

    config: RunConfig
    record: SweepRun
    size: str
    """Label of its shape in the ladder."""


class LeftOut(NamedTuple):
    """A cell of the grid that is not run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Design:
    """All that a sweep runs. Segments stand in an order that respects what each needs."""

    spec: SweepSpec
    corpus: CorpusFacts
    numerics: Numerics
    models: dict[str, ModelConfig]
    runs: list[PlannedRun]
    segments: list[Segment]
    left_out: list[LeftOut]


class _Cell(NamedTuple):
    """A size at a budget and a learning rate, before seeds."""

    name: str
    budget: float
    config: RunConfig
    """Of the first seed, without a parent."""


def make_design(spec: SweepSpec, corpus: CorpusFacts, numerics: Numerics) -> Design:
    """Every run and segment of a sweep.

    A key depends on the run's own numbers only: a new size, seed or budget leaves the others' keys as they were, as long as
    a trunk's horizon stays (`recipe.reference_budget`).

    Raises:
        UserError: two budgets come to the same run, two shapes are the same, or every cell is left out.
    """
    models = spec.ladder.models(corpus.vocab_size)
    _refuse_equal_shapes(models)
    largest = max(models, key=lambda size: count_parameters(models[size]).n_params)
    runs: list[PlannedRun] = []
    segments: list[Segment] = []
    left_out: list[LeftOut] = []
    for size, model in models.items():
        held_out_size = spec.held_out.largest_size and size == largest
        for multiplier in spec.recipe.lr_multipliers:
            cells = list(_cells(spec, corpus, numerics, size, model, multiplier, left_out))
            seeds = dict.fromkeys(seed for cell in cells for seed in spec.seeds_for(model.d_model, cell.budget))
            for seed in seeds:
                chosen = [cell for cell in cells if seed in spec.seeds_for(model.d_model, cell.budget)]
                new_runs = list(_runs(spec, size, chosen, seed, held_out_size, _rate_label(size, multiplier)))
                runs += new_runs
                segments += segments_of({run.record.key: run.config for run in new_runs})
    if not runs:
        reasons = "; ".join(f"{cell.name}: {cell.reason}" for cell in left_out[:3])
        raise UserError(
            f"sweep {spec.name} has no runs, every cell of its grid is left out ({reasons}): change its budgets"
        )
    return Design(
        spec=spec, corpus=corpus, numerics=numerics, models=models, runs=runs, segments=segments, left_out=left_out
    )


def _cells(
    spec: SweepSpec,
    corpus: CorpusFacts,
    numerics: Numerics,
    size: str,
    model: ModelConfig,
    multiplier: float,
    left_out: list[LeftOut],
) -> Iterator[_Cell]:
    """The cells of one size and learning rate that make sense, shortest first; the others go to `left_out`."""
    n_params = count_parameters(model).n_params
    label, unit = _rate_label(size, multiplier), spec.budgets.unit
    planned: dict[str, tuple[float, int]] = {}
    for budget in spec.budgets.for_width(model.d_model):
        name, tokens = cell_name(label, unit, budget), budget_tokens(unit, budget, model)
        reason = _outside_limits(spec, tokens / n_params)
        if reason:
            left_out.append(LeftOut(name, reason))
        else:
            planned[name] = (budget, tokens)
    if not planned:
        return
    horizon = max(tokens for _, tokens in planned.values())
    if spec.recipe.reference_budget is not None:
        horizon = budget_tokens(unit, spec.recipe.reference_budget, model)
    by_steps: dict[int, float] = {}
    for name, (budget, tokens) in planned.items():
        is_branch = spec.recipe.effective_schedule == "wsd"
        recipe = make_recipe(
            spec.recipe.name, model, horizon if is_branch else tokens, spec.recipe, lr_multiplier=multiplier
        )
        steps = round(tokens / (recipe.batch_sequences * model.context_length))
        if steps < 1:
            left_out.append(
                LeftOut(
                    name,
                    f"{tokens:,} tokens are less than half a batch of {recipe.batch_sequences} x {model.context_length:,}",
                )
            )
            continue
        if steps in by_steps:
            raise UserError(
                f"budgets.{unit}: {by_steps[steps]:g} and {budget:g} both come to {steps:,} steps of "
                f"{recipe.batch_sequences * model.context_length:,} tokens at {size}: drop one, move them apart, "
                "or set a smaller recipe.batch_tokens"
            )
        config = _config(spec, corpus, numerics, model, recipe, steps, spec.seeds.base[0])
        reason = _too_short(config)
        if reason:
            left_out.append(LeftOut(name, reason))
            continue
        by_steps[steps] = budget
        yield _Cell(name, budget, config)


def budget_tokens(unit: BudgetUnit, budget: float, model: ModelConfig) -> int:
    """Training tokens that a declared budget buys a model, before rounding to whole batches."""
    if unit == "flops":
        return round(budget / training_flops_per_token(model))
    if unit == "tokens":
        return round(budget)
    return round(budget * count_parameters(model).n_params)


def _outside_limits(spec: SweepSpec, tokens_per_parameter: float) -> str | None:
    low, high = spec.budgets.min_tokens_per_parameter, spec.budgets.max_tokens_per_parameter
    if low is not None and tokens_per_parameter < low:
        return f"{tokens_per_parameter:.3g} tokens a parameter, below min_tokens_per_parameter {low:g}"
    if high is not None and tokens_per_parameter > high:
        return f"{tokens_per_parameter:.3g} tokens a parameter, above max_tokens_per_parameter {high:g}"
    return None


def _too_short(config: RunConfig) -> str | None:
    """A run whose rate never reached its peak, or had only just, is no point of a law."""
    assert config.steps is not None  # a cell has a length
    warmup, cooldown_start = warmup_steps(config), config.cooldown_start_step
    if cooldown_start is not None and cooldown_start < max(1, warmup):
        return f"{config.steps} steps: the cooldown would start at step {cooldown_start}, the warm-up takes {warmup}"
    if cooldown_start is None and 2 * warmup > config.steps:
        return f"{config.steps} steps: the warm-up takes {warmup}, over half of them"
    return None


def _config(
    spec: SweepSpec,
    corpus: CorpusFacts,
    numerics: Numerics,
    model: ModelConfig,
    recipe: Recipe,
    steps: int,
    seed: int,
) -> RunConfig:
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
    )


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
    config = _config(spec, corpus, numerics, model, made, steps, seed) if steps else None
    reason = _too_short(config) if config is not None else "less than half a batch"
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


def _runs(
    spec: SweepSpec, size: str, cells: list[_Cell], seed: int, held_out_size: bool, label: str
) -> Iterator[PlannedRun]:
    """The runs of one size, learning rate and seed: the trunk before its branches, or lone runs."""
    configs = [cell.config.model_copy(update={"seed": seed}) for cell in cells]
    trunk_key = None
    if configs[0].recipe.schedule == "wsd":
        trunk = configs[0].trunk()
        trunk_key = trunk.key
        record = SweepRun(
            key=trunk_key,
            name=f"{label}-trunk-s{seed}",
            trunk=None,
            is_trunk=True,
            flops_budget=None,
            held_out=False,
            n_params=count_parameters(trunk.model).n_params,
        )
        yield PlannedRun(config=trunk, record=record, size=size)
    ratio_limit = spec.held_out.tokens_per_parameter_above
    for cell, lone in zip(cells, configs, strict=True):
        config = lone
        if trunk_key is not None:
            config = lone.model_copy(update={"parent": trunk_key, "fork_step": lone.cooldown_start_step})
        assert config.tokens is not None  # a cell has a length
        n_params = count_parameters(config.model).n_params
        ratio = config.tokens / n_params
        record = SweepRun(
            key=config.key,
            name=f"{cell.name}-s{seed}",
            trunk=trunk_key,
            is_trunk=False,
            flops_budget=cell.budget if spec.budgets.unit == "flops" else None,
            held_out=held_out_size or (ratio_limit is not None and ratio > ratio_limit),
            n_params=n_params,
            tokens=config.tokens,
            fork_tokens=None if config.fork_step is None else config.fork_step * config.batch_tokens,
        )
        yield PlannedRun(config=config, record=record, size=size)


def _refuse_equal_shapes(models: dict[str, ModelConfig]) -> None:
    seen: dict[ModelConfig, str] = {}
    for size, model in models.items():
        if model in seen:
            raise UserError(f"ladder.shapes: {seen[model]} and {size} are the same shape: drop one")
        seen[model] = size


def _rate_label(size: str, multiplier: float) -> str:
    return size if multiplier == 1 else f"{size}-lr{multiplier:g}"


def cell_name(size: str, unit: BudgetUnit, budget: float) -> str:
    """A size at a budget, as runs are called: `w32-C3.2e11`."""
    return f"{size}-{_BUDGET_LETTER[unit]}{_short(budget)}"


def _short(value: float) -> str:
    """A number as short as names want it: 1e11, 3.2e11, 20, 0.5."""
    if 1e-3 <= value < 1e5:
        return f"{value:.12g}"
    mantissa, exponent = f"{value:.12e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
