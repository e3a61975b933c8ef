"""`SweepSpec`: the YAML a person writes. It says what to run; `sweeps.designs.design` works out the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from llama.config import (
    ActivationCheckpointing,
    CommandTrainer,
    Config,
    DType,
    ModelConfig,
    Positive,
    PositiveFloat,
    digest,
)
from llama.data.sources import CorpusSpec
from llama.recipes import RULES, Overrides, Schedule, recipe_problems
from llama.records import InferenceProtocol
from sweeps.designs.budgets import AnyBudgets, ByHand, OneBudget, Part, Seed, Wanted, budget_tokens, parts_of
from sweeps.designs.sizes import SHORT_NAME, Ladder
from sweeps.designs.tune_block import Tune
from sweeps.yaml_lines import listed, load_record, nearest, refuse, repeated


def _off_is_none(value: Any) -> Any:
    return None if value is False else value


def _auto_is_none(value: Any) -> Any:
    return None if value == "auto" else value


def _has_unit(value: Any) -> str:
    return "with_unit" if isinstance(value, dict | OneBudget) else "number"


def _unknown_widths(widths: dict[str, int], ladder: Ladder) -> list[tuple[str, str]]:
    """Problems of widths, by where each stands, that the ladder does not have."""
    known = ladder.all_widths
    return [
        (where, f"found width {width}; one of {listed(known)} is right, as in ladder")
        for where, width in widths.items()
        if width not in known
    ]


def _unknown_sizes(sizes: dict[str, str], ladder: Ladder) -> list[tuple[str, str]]:
    """Problems of labels, by where each stands, that the ladder does not have."""
    known = list(ladder.width_by_size)
    return [
        (where, f"found {size!r}; one of {', '.join(known)} is right, as in ladder{nearest(size, known)}")
        for where, size in sizes.items()
        if size not in known
    ]


def _unknown_in_part(part: Part, ladder: Ladder) -> list[tuple[str, str]]:
    """Problems of sizes and widths, by where each stands in the part."""
    if isinstance(part, ByHand):
        return _unknown_sizes({f"cells.{index}.size": cell.size for index, cell in enumerate(part.cells)}, ladder)
    return [
        *_unknown_sizes({f"sizes.{index}": size for index, size in enumerate(part.sizes or [])}, ladder),
        *_unknown_widths({f"by_width.{width}": width for width in part.by_width or {}}, ladder),
    ]


class RecipeSpec(Overrides):
    """A rule of `llama.recipes` by name, and what this sweep sets over it."""

    name: str
    lr_multipliers: list[PositiveFloat] = Field(default=[1.0], min_length=1)
    """More than one makes a learning-rate sweep: every cell is run at each multiple of the rule's rate."""
    reference_budget: (
        Annotated[
            Annotated[OneBudget, Tag("with_unit")] | Annotated[PositiveFloat, Tag("number")],
            Discriminator(_has_unit),
        ]
        | None
    ) = None
    """The horizon that a WSD trunk's learning rate is set for: what the rule takes as D. A number is in the unit of `budgets`;
    where its parts have several, a block says which (`{tokens: 4e6}`). The middle of the budgets is right, since all of them
    share the trunk. Unless given it is the size's largest budget, and then a
    larger budget added later gives the size's runs new keys: they train anew. State it, and every stored run stays."""

    @model_validator(mode="after")
    def _check(self) -> RecipeSpec:
        if self.name not in RULES:
            refuse(
                ("name", f"found {self.name!r}; one of {', '.join(RULES)} is right{nearest(self.name, list(RULES))}")
            )
        problems = recipe_problems(self.name, self)
        problems += [("lr_multipliers", f"{value:g} stands twice") for value in repeated(self.lr_multipliers)]
        if self.reference_budget is not None and self.effective_schedule == "cosine":
            problems.append(("reference_budget", "a cosine run's horizon is its own length: leave it out, or take wsd"))
        if problems:
            refuse(*problems)
        return self

    @property
    def effective_schedule(self) -> Schedule:
        return self.schedule or RULES[self.name].schedule


class ExtraSeeds(Config):
    """More seeds for some cells: they tell noise from differences, where runs are cheap."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    widths: Annotated[list[Positive], Field(min_length=1)] | None = None
    # Left out of the spec's digest where it isn't said: older sweeps keep theirs.
    sizes: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Labels in the ladder, in place of widths."""
    budgets: Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    """These budgets of the sizes, whatever part they stand in; all of them unless given."""

    @model_validator(mode="after")
    def _check(self) -> ExtraSeeds:
        if (self.widths is None) == (self.sizes is None):
            raise ValueError("give one of widths and sizes")
        return self

    def covers(self, size: str, d_model: int) -> bool:
        return d_model in self.widths if self.widths is not None else size in (self.sizes or [])


class Seeds(Config):
    base: list[Seed] = Field(default=[0], min_length=1)
    """Every cell is run at each of these."""
    extra: list[ExtraSeeds] = Field(default=[])

    @model_validator(mode="after")
    def _check(self) -> Seeds:
        if twice := repeated(self.base):
            refuse(("base", f"seed {twice[0]} stands twice"))
        return self


class HeldOut(Config):
    """Runs kept out of fits, to be predicted by them."""

    largest_size: bool = False
    """Every run of the size with the most parameters."""
    tokens_per_parameter_above: PositiveFloat | None = None
    """Every run with more tokens over `n_params`."""


class Evaluation(Config):
    validation_tokens: Positive
    """Held-out tokens that each finished run is scored on, shared evenly between the domains."""


class Resources(Config):
    """What one run is given. Where it runs changes no more than the order of its sums: last bits, by device and cores."""

    cpus: Positive = 1
    """Cores, and threads, of a run."""
    gpus: Annotated[PositiveFloat | None, BeforeValidator(_auto_is_none)] = None
    """GPUs of a run, which a machine without any can't give; a fraction packs several on one. `auto` leaves it to the launcher,
    with or without GPUs."""


class SweepSpec(Config):
    """A family of runs over model size and training tokens."""

    name: str
    """Names the sweep's folder and its MLflow experiment."""
    corpus: CorpusSpec
    ladder: Ladder
    budgets: AnyBudgets
    recipe: RecipeSpec
    seeds: Seeds = Seeds()
    held_out: HeldOut = HeldOut()
    evaluation: Evaluation
    inference: Annotated[InferenceProtocol | None, BeforeValidator(_off_is_none), Field(validate_default=True)] = (
        InferenceProtocol()
    )
    """`off` measures none."""
    precision: Literal["auto", DType] = "auto"
    """Compute precision, one for all sizes; auto is bfloat16 on a GPU, and on a CPU with matrix tiles where no size is narrower
    than 128; else float32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model; auto does where a size's planned FLOPs earn the half minute that it takes."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """Recompute activations in the backward pass to save memory: all but the outputs of matrix products, or all of a block."""
    micro_batch: Positive | None = None
    """At most so many sequences go through the model at once; gradients add up to the recipe's batch."""
    resources: Resources = Resources()
    # Left out of the digest where it is our own: older sweeps keep theirs.
    trainer: CommandTrainer | None = Field(default=None, exclude_if=lambda value: value is None)
    """A command that trains in place of `llama.trainer`, every run from scratch (docs/trainer-command.md)."""
    tune: Tune | None = None
    """Makes the sweep a tuning study, for `isoloss tune`."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not SHORT_NAME.fullmatch(name):
            raise ValueError(f"found {name!r}; letters, digits, '.', '_' and '-' are right: it names a folder")
        return name

    # Checks between fields stand at the later field, so that one wrong field hides no other problem.

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: Part | list[Part], info: ValidationInfo) -> Part | list[Part]:
        ladder: Ladder | None = info.data.get("ladder")
        problems = [
            (f"{index}.{where}" if isinstance(budgets, list) else where, message)
            for index, part in enumerate(parts_of(budgets))
            for where, message in (_unknown_in_part(part, ladder) if ladder else [])
        ]
        if problems:
            refuse(*problems)
        return budgets

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, recipe: RecipeSpec, info: ValidationInfo) -> RecipeSpec:
        budgets: Part | list[Part] | None = info.data.get("budgets")
        reference, units = recipe.reference_budget, list(dict.fromkeys(part.unit for part in parts_of(budgets or [])))
        if len(units) > 1 and isinstance(reference, float):
            example = f"{{{units[0]}: {reference:g}}}"
            message = f"found {reference:g}, but budgets are in {' and '.join(units)}: say its unit, as in {example}"
            refuse(("reference_budget", message))
        return recipe

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: Seeds, info: ValidationInfo) -> Seeds:
        ladder: Ladder | None = info.data.get("ladder")
        budgets: Part | list[Part] | None = info.data.get("budgets")
        problems = []
        for index, extra in enumerate(seeds.extra if ladder else []):
            assert ladder is not None  # for the type checker: without one there is nothing to check against
            widths = {f"extra.{index}.widths.{place}": width for place, width in enumerate(extra.widths or [])}
            sizes = {f"extra.{index}.sizes.{place}": size for place, size in enumerate(extra.sizes or [])}
            problems += _unknown_widths(widths, ladder) + _unknown_sizes(sizes, ladder)
            known = {
                wanted.budget
                for size, width in ladder.width_by_size.items()
                if extra.covers(size, width)
                for part in parts_of(budgets or [])
                for wanted in part.wanted(size, width)
            }
            problems += [
                (f"extra.{index}.budgets.{place}", f"found {value:g}; one of {listed(known)} is right, as in budgets")
                for place, value in enumerate(extra.budgets or [])
                if known and value not in known
            ]
        if problems:
            refuse(*problems)
        return seeds

    @field_validator("evaluation")
    @classmethod
    def _check_evaluation(cls, evaluation: Evaluation, info: ValidationInfo) -> Evaluation:
        ladder: Ladder | None = info.data.get("ladder")
        corpus: CorpusSpec | None = info.data.get("corpus")
        least = ladder.context_length * len(corpus.domains) if ladder and corpus else 0
        if evaluation.validation_tokens < least:
            message = f"found {evaluation.validation_tokens:,}; from {least:,}, a sequence of context_length a domain, is right"
            refuse(("validation_tokens", message))
        return evaluation

    @field_validator("inference")
    @classmethod
    def _check_inference(cls, inference: InferenceProtocol | None, info: ValidationInfo) -> InferenceProtocol | None:
        ladder: Ladder | None = info.data.get("ladder")
        if inference and ladder:
            total, most = inference.prompt_tokens + inference.output_tokens, ladder.context_length
            if total > most:
                raise ValueError(
                    f"prompt_tokens + output_tokens is {total}; at most the context_length {most} is right"
                )
        return inference

    @field_validator("trainer")
    @classmethod
    def _check_trainer(cls, trainer: CommandTrainer | None, info: ValidationInfo) -> CommandTrainer | None:
        recipe: RecipeSpec | None = info.data.get("recipe")
        if trainer and recipe and recipe.reference_budget is not None:
            raise ValueError(
                "every run of a command stands alone, at a rate for its own length: leave recipe.reference_budget out"
            )
        return trainer

    @field_validator("tune")
    @classmethod
    def _check_tune(cls, tune: Tune | None, info: ValidationInfo) -> Tune | None:
        if tune and info.data.get("trainer") is not None:
            raise ValueError("a tuning study trains by isoloss's own trainer: leave trainer out")
        ladder: Ladder | None = info.data.get("ladder")
        budgets: Part | list[Part] | None = info.data.get("budgets")
        if tune and ladder and budgets:
            parts, sizes = parts_of(budgets), ladder.width_by_size.items()
            problems = tune.problems(
                n_sizes=len(sizes),
                n_budgets=max(sum(len(part.wanted(size, width)) for part in parts) for size, width in sizes),
                unit=" and ".join(sorted({part.unit for part in parts})),
                measures_serving=info.data.get("inference") is not None,
                unheeded=_unheeded_by_tuning(parts, info.data.get("recipe"), info.data.get("seeds")),
            )
            if problems:
                refuse(*problems)
        return tune

    @property
    def weights(self) -> dict[str, float]:
        """Sampling weights by domain, summing to 1."""
        total = sum(domain.weight for domain in self.corpus.domains.values())
        return {name: domain.weight / total for name, domain in self.corpus.domains.items()}

    @property
    def has_trunks(self) -> bool:
        """Whether a size's runs share a trunk: a command can't fork from a checkpoint of ours, so its runs stand alone."""
        return self.recipe.effective_schedule == "wsd" and self.trainer is None

    @property
    def parts(self) -> list[Part]:
        """The parts of `budgets`, as written."""
        return parts_of(self.budgets)

    def reference_tokens(self, model: ModelConfig) -> int | None:
        """The stated horizon of a size's trunk, None where none is stated."""
        reference = self.recipe.reference_budget
        if isinstance(reference, OneBudget):
            return budget_tokens(reference.unit, reference.value, model)
        return None if reference is None else budget_tokens(self.parts[0].unit, reference, model)

    @property
    def all_seeds(self) -> list[int]:
        """Of any cell: the base ones, then the extra ones, then those of cells by hand."""
        extra = [seed for more in self.seeds.extra for seed in more.seeds]
        by_hand = [cell.seed for part in self.parts if isinstance(part, ByHand) for cell in part.cells]
        return list(dict.fromkeys([*self.seeds.base, *extra, *sorted(seed for seed in by_hand if seed is not None)]))

    def seeds_for(self, size: str, d_model: int, wanted: Wanted) -> list[int]:
        """Seeds of a cell, the base ones first."""
        if wanted.seed is not None:
            return [wanted.seed]
        extra = [
            seed
            for more in self.seeds.extra
            if more.covers(size, d_model) and (more.budgets is None or wanted.budget in more.budgets)
            for seed in more.seeds
        ]
        return list(dict.fromkeys([*self.seeds.base, *extra]))

    @property
    def digest(self) -> str:
        """SHA-256 of all that the spec says, in canonical form; comments and order of keys are no part of it."""
        # Sweeps that were launched before there was a tuning study keep their digest.
        return digest(self.model_dump(mode="json", exclude={"tune"} if self.tune is None else None))


def _unheeded_by_tuning(parts: Sequence[Part], recipe: RecipeSpec | None, seeds: Seeds | None) -> list[str]:
    """Keys that were given and that say what a tuning study decides itself."""
    by_hand = [cell for part in parts if isinstance(part, ByHand) for cell in part.cells]
    given = {
        "seed of budgets.cells": any(cell.seed is not None for cell in by_hand),
        "lr_multiplier of budgets.cells": any(cell.lr_multiplier is not None for cell in by_hand),
        "recipe.lr_multipliers": recipe is not None and recipe.lr_multipliers != [1.0],
        "seeds.extra": seeds is not None and bool(seeds.extra),
    }
    return [key for key, is_given in given.items() if is_given]


def load_sweep(path: Path | str) -> SweepSpec:
    """The sweep that a YAML file describes.

    Raises:
        UserError: the file can't be read or has problems; the message names each with its line and what would be right.
    """
    return load_record(Path(path), SweepSpec)
