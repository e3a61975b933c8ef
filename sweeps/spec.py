"""`SweepSpec`: the YAML a person writes. It says what to run; `sweeps.design` works out the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from llama.config import ActivationCheckpointing, Config, DType, Positive, PositiveFloat, digest
from llama.data.sources import CorpusSpec
from llama.recipes import RULES, Overrides, Schedule, recipe_problems
from sweeps.sizes import SHORT_NAME, Ladder
from sweeps.tuning.spec import Tune
from sweeps.yaml_lines import listed, load_record, nearest, refuse, repeated

BudgetUnit = Literal["flops", "tokens", "tokens_per_parameter"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _off_is_none(value: Any) -> Any:
    return None if value is False else value


def _auto_is_none(value: Any) -> Any:
    return None if value == "auto" else value


def _unknown_widths(widths: dict[str, int], info: ValidationInfo) -> list[tuple[str, str]]:
    """Problems of widths, by where each stands, that the ladder does not have."""
    ladder: Ladder | None = info.data.get("ladder")
    known = ladder.all_widths if ladder else []
    return [
        (where, f"found width {width}; one of {listed(known)} is right, as in ladder")
        for where, width in widths.items()
        if ladder and width not in known
    ]


class Budgets(Config):
    """How long each size trains: the same list for every size, in exactly one unit."""

    flops: Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    """Training FLOPs, shared by the sizes, so that isoFLOP bowls exist: tokens = budget / FLOPs a token of the size."""
    tokens: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Training tokens."""
    tokens_per_parameter: Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    """Training tokens over all parameters (`n_params`). A single ratio cannot identify a scaling law."""

    by_width: dict[int, Annotated[list[PositiveFloat], Field(min_length=1)]] | None = None
    """Another list for some widths, in the same unit."""
    min_tokens_per_parameter: PositiveFloat | None = None
    """Cells below this many tokens over `n_params` are left out, and the plan names them."""
    max_tokens_per_parameter: PositiveFloat | None = None
    """Cells above it are left out, and the plan names them."""

    @model_validator(mode="after")
    def _check(self) -> Budgets:
        units = get_args(BudgetUnit)
        given = [unit for unit in units if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(units)} is right; found {' and '.join(given) or 'none'}")
        problems: list[tuple[str, str]] = [
            (self.unit, f"budget {value:g} stands twice") for value in repeated(self.values)
        ]
        for width, values in (self.by_width or {}).items():
            problems += [(f"by_width.{width}", f"budget {value:g} stands twice") for value in repeated(values)]
        low, high = self.min_tokens_per_parameter, self.max_tokens_per_parameter
        if low is not None and high is not None and low >= high:
            problems.append(
                ("max_tokens_per_parameter", f"found {high:g}; a number above the minimum {low:g} is right")
            )
        if problems:
            refuse(*problems)
        return self

    @property
    def unit(self) -> BudgetUnit:
        return next(unit for unit in get_args(BudgetUnit) if getattr(self, unit) is not None)

    @property
    def values(self) -> list[float]:
        return list(getattr(self, self.unit))

    def for_width(self, d_model: int) -> list[float]:
        """The budgets of a size, ascending."""
        return sorted((self.by_width or {}).get(d_model, self.values))


class RecipeSpec(Overrides):
    """A rule of `llama.recipes` by name, and what this sweep sets over it."""

    name: str
    lr_multipliers: list[PositiveFloat] = Field(default=[1.0], min_length=1)
    """More than one makes a learning-rate sweep: every cell is run at each multiple of the rule's rate."""
    reference_budget: PositiveFloat | None = None
    """The horizon that a WSD trunk's learning rate is set for, in the unit of `budgets`: what the rule takes as D. The middle
    of the budgets is right, since all of them share the trunk. Unless given it is the size's largest budget, and then a
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
    widths: Annotated[list[Positive], Field(min_length=1)]
    budgets: Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    """These budgets of the widths; all of them unless given."""


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


class Inference(Config):
    """How the serving cost of each size is measured."""

    max_batch: Positive = 64
    """Batches double from 1 up to this, or to where tokens a second stop growing."""
    prompt_tokens: Positive = 64
    output_tokens: Annotated[int, Field(ge=2)] = 64
    repetitions: Annotated[int, Field(ge=5)] = 5


class Resources(Config):
    """What one run is given. Where it runs changes no more than the order of its sums: last bits, by device and cores."""

    cpus: Positive = 1
    """Cores, and threads, of a run."""
    gpus: Annotated[PositiveFloat | None, BeforeValidator(_auto_is_none)] = None
    """GPUs of a run where there are any; a fraction packs several on one. `auto` leaves it to the launcher."""


class SweepSpec(Config):
    """A family of runs over model size and training tokens."""

    name: str
    """Names the sweep's folder and its MLflow experiment."""
    corpus: CorpusSpec
    ladder: Ladder
    budgets: Budgets
    recipe: RecipeSpec
    seeds: Seeds = Seeds()
    held_out: HeldOut = HeldOut()
    evaluation: Evaluation
    inference: Annotated[Inference | None, BeforeValidator(_off_is_none), Field(validate_default=True)] = Inference()
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
    def _check_budgets(cls, budgets: Budgets, info: ValidationInfo) -> Budgets:
        if problems := _unknown_widths({f"by_width.{width}": width for width in budgets.by_width or {}}, info):
            refuse(*problems)
        return budgets

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: Seeds, info: ValidationInfo) -> Seeds:
        budgets: Budgets | None = info.data.get("budgets")
        problems = []
        for index, extra in enumerate(seeds.extra):
            places = {f"extra.{index}.widths.{place}": width for place, width in enumerate(extra.widths)}
            problems += _unknown_widths(places, info)
            known = {value for width in extra.widths for value in (budgets.for_width(width) if budgets else [])}
            problems += [
                (f"extra.{index}.budgets.{place}", f"found {value:g}; one of {listed(known)} is right, as in budgets")
                for place, value in enumerate(extra.budgets or [])
                if budgets and value not in known
            ]
        if problems:
            refuse(*problems)
        return seeds

    @field_validator("inference")
    @classmethod
    def _check_inference(cls, inference: Inference | None, info: ValidationInfo) -> Inference | None:
        ladder: Ladder | None = info.data.get("ladder")
        if inference and ladder:
            total, most = inference.prompt_tokens + inference.output_tokens, ladder.context_length
            if total > most:
                raise ValueError(
                    f"prompt_tokens + output_tokens is {total}; at most the context_length {most} is right"
                )
        return inference

    @field_validator("tune")
    @classmethod
    def _check_tune(cls, tune: Tune | None, info: ValidationInfo) -> Tune | None:
        ladder: Ladder | None = info.data.get("ladder")
        budgets: Budgets | None = info.data.get("budgets")
        if tune and ladder and budgets:
            problems = tune.problems(
                n_sizes=len(ladder.models(vocab_size=1)), n_budgets=len(budgets.values), unit=budgets.unit
            )
            if problems:
                refuse(*problems)
        return tune

    @property
    def weights(self) -> dict[str, float]:
        """Sampling weights by domain, summing to 1."""
        total = sum(domain.weight for domain in self.corpus.domains.values())
        return {name: domain.weight / total for name, domain in self.corpus.domains.items()}

    def seeds_for(self, d_model: int, budget: float) -> list[int]:
        """Seeds of a cell, the base ones first."""
        extra = [
            seed
            for more in self.seeds.extra
            if d_model in more.widths and (more.budgets is None or budget in more.budgets)
            for seed in more.seeds
        ]
        return list(dict.fromkeys([*self.seeds.base, *extra]))

    @property
    def digest(self) -> str:
        """SHA-256 of all that the spec says, in canonical form; comments and order of keys are no part of it."""
        # Sweeps that were launched before there was a tuning study keep their digest.
        return digest(self.model_dump(mode="json", exclude={"tune"} if self.tune is None else None))


def load_sweep(path: Path | str) -> SweepSpec:
    """The sweep that a YAML file describes.

    Raises:
        UserError: the file can't be read or has problems; the message names each with its line and what would be right.
    """
    return load_record(Path(path), SweepSpec)
