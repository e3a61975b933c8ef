"""From a spec to its runs and their segments.

A WSD sweep trains one constant-rate trunk for each size, seed and learning rate; every budget is a cooldown branch off it
(Haegele et al. 2024). The trunk is cut into segments where its branches fork, so that a branch can start as soon as its
fork exists. A cosine sweep is runs that stand alone. Nothing here trains, reads a corpus or knows Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llama.accounting import count_parameters
from llama.config import ModelConfig, RunConfig
from llama.errors import UserError
from llama.metric_names import TAG_BUDGET, TAG_SIZE
from llama.sweep_index import SweepRun
from sweeps.designs.budgets import MOST, Budgets, ByHand
from sweeps.designs.cells import Cell, LeftOut, make_cells, rate_label
from sweeps.designs.numerics import Numerics
from sweeps.designs.run_configs import CorpusFacts
from sweeps.designs.segments import Segment, segments_of
from sweeps.designs.spec import SweepSpec

#: The fields of `Budgets` that leave cells out.
LIMITS = {"min_tokens_per_parameter", "max_tokens_per_parameter"}


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run, a trunk included, with its part in the sweep."""

    config: RunConfig
    record: SweepRun
    size: str
    """Label of its shape in the ladder."""
    parts: tuple[int, ...]
    """Which parts of `budgets` want it, by place; a trunk is wanted by its branches."""

    @property
    def tokens(self) -> int:
        """Of a run that is no trunk: a trunk goes as far as its branches need."""
        assert self.config.tokens is not None
        return self.config.tokens


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


def make_design(spec: SweepSpec, corpus: CorpusFacts, numerics: Numerics) -> Design:
    """Every run and segment of a sweep.

    A key depends on the run's own numbers only: a new size, seed, budget or part leaves the others' keys as they were, as long
    as a trunk's horizon stays (`recipe.reference_budget`). The branches of all parts share a size's trunk.

    Raises:
        UserError: two budgets of one part come to the same run, two shapes are the same, or every cell is left out.
    """
    models = spec.ladder.models(corpus.vocab_size)
    _refuse_equal_shapes(models)
    largest = max(models, key=lambda size: count_parameters(models[size]).n_params)
    runs: list[PlannedRun] = []
    segments: list[Segment] = []
    left_out: list[LeftOut] = []
    for size, model in models.items():
        held_out_size = spec.held_out.largest_size and size == largest
        cells, out = make_cells(spec, corpus, numerics, size, model)
        left_out += out
        for multiplier in dict.fromkeys(cell.lr_multiplier for cell in cells):
            at_rate = [cell for cell in cells if cell.lr_multiplier == multiplier]
            for seed in spec.all_seeds:
                chosen = [cell for cell in at_rate if seed in cell.parts_by_seed]
                new_runs = list(_runs(spec, size, chosen, seed, held_out_size)) if chosen else []
                runs += new_runs
                segments += segments_of({run.record.key: run.config for run in new_runs})
    if not runs:
        reasons = "; ".join(f"{cell.name}: {cell.reason}" for cell in left_out[:3])
        raise UserError(
            f"sweep {spec.name} has no runs, every cell is left out ({reasons}): {_enough(spec, corpus, numerics, models)}"
        )
    return Design(
        spec=spec, corpus=corpus, numerics=numerics, models=models, runs=runs, segments=segments, left_out=left_out
    )


def _enough(spec: SweepSpec, corpus: CorpusFacts, numerics: Numerics, models: dict[str, ModelConfig]) -> str:
    """Which budget would give some size a run: the nearest one, by doubling and halving those asked for."""
    for part in spec.parts:
        for size, model in models.items():
            wanted = [wish.budget for wish in part.wanted(size, model.d_model)]
            doubled = [max(wanted) * 2.0**power for power in range(1, 64)] if wanted else []
            halved = [min(wanted) / 2.0**power for power in range(1, 64)] if wanted else []
            for budget in doubled + halved:
                value = float(f"{budget:.2g}")
                if not 0 < value <= MOST[part.unit]:
                    continue
                kept = {} if isinstance(part, ByHand) else part.model_dump(include=LIMITS, exclude_none=True)
                tried = spec.model_copy(
                    update={
                        "budgets": Budgets.model_validate(
                            {part.unit: [round(value) if part.unit == "tokens" else value], **kept}
                        )
                    }
                )
                if make_cells(tried, corpus, numerics, size, model)[0]:
                    field = "tokens" if isinstance(part, ByHand) else f"budgets.{part.unit}"
                    return f"{field} of about {value:.2g} would be enough for {size}"
    return "change its budgets"


def _runs(spec: SweepSpec, size: str, cells: list[Cell], seed: int, held_out_size: bool) -> Iterator[PlannedRun]:
    """The runs of one size, learning rate and seed: the trunk before its branches, or lone runs."""
    configs = [cell.config.model_copy(update={"seed": seed}) for cell in cells]
    trunk_key = None
    if spec.has_trunks:
        trunk = configs[0].trunk()
        trunk_key = trunk.key
        record = SweepRun(
            key=trunk_key,
            name=f"{rate_label(size, cells[0].lr_multiplier)}-trunk-s{seed}",
            trunk=None,
            is_trunk=True,
            flops_budget=None,
            held_out=False,
            n_params=count_parameters(trunk.model).n_params,
            tags={TAG_SIZE: size},
        )
        yield PlannedRun(config=trunk, record=record, size=size, parts=())
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
            flops_budget=cell.flops_budget,
            held_out=held_out_size or (ratio_limit is not None and ratio > ratio_limit),
            n_params=n_params,
            tokens=config.tokens,
            fork_tokens=None if config.fork_step is None else config.fork_step * config.batch_tokens,
            tags={TAG_SIZE: size, TAG_BUDGET: cell.budget},
        )
        yield PlannedRun(config=config, record=record, size=size, parts=cell.parts_by_seed[seed])


def _refuse_equal_shapes(models: dict[str, ModelConfig]) -> None:
    seen: dict[ModelConfig, str] = {}
    for size, model in models.items():
        if model in seen:
            raise UserError(f"ladder.shapes: {seen[model]} and {size} are the same shape: drop one")
        seen[model] = size
