"""The search for learning rates and batches: a study for each size and horizon, all of them side by side.

Each cell of the sweep (a size at a budget) is an Optuna study of its own. A generation takes the next trials of every cell,
trains them together, and tells them; `sweeps.tuning.suggestions` says why that is reproducible. A trial is a run that stands
alone, with the recipe's numbers at the cell but for its rate and batch; the trials of a cell take the sweep's seeds in turn, so
that the scatter around the cell's curve holds the seeds' noise too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import ModelConfig, RunConfig
from llama.errors import UserError
from sweeps.designs.cells import make_cells
from sweeps.designs.numerics import Numerics
from sweeps.designs.run_configs import CorpusFacts, lone_run
from sweeps.designs.spec import SweepSpec
from sweeps.designs.tune_block import RateSearch
from sweeps.tuning.pruning import is_hopeless, judged_step
from sweeps.tuning.rate_law import Point
from sweeps.tuning.suggestions import Parameters, Suggestion, Suggestions
from sweeps.tuning.trials import Stretch, Train, Trial

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Where a cell's first trials lie, as shares of the way from the lowest multiple to the highest in logarithms: spread, since
#: a curve needs both its sides, and the middle first.
START_SHARES = (0.5, 0.25, 0.75, 0.375, 0.625)


@dataclass(frozen=True, kw_only=True)
class RateCell:
    """A size at a budget."""

    name: str
    """As in the names of runs: `w32-D1e6`."""
    model: ModelConfig
    tokens: int
    held_out: bool

    @property
    def point(self) -> Point:
        return Point(n_params=count_parameters(self.model).n_params, tokens=self.tokens)

    @property
    def flops(self) -> float:
        """Training FLOPs of one trial."""
        return float(self.tokens * training_flops_per_token(self.model))


def cells_of(spec: SweepSpec, corpus: CorpusFacts, numerics: Numerics) -> list[RateCell]:
    """The sweep's cells, each once however many parts want it; the largest size's are held out.

    Raises:
        UserError: the limits leave nothing of the largest size, or of all but one of the others.
    """
    models = spec.ladder.models(corpus.vocab_size)
    largest = max(models, key=lambda size: count_parameters(models[size]).n_params)
    made = {size: make_cells(spec, corpus, numerics, size, model) for size, model in models.items()}
    with_cells = [size for size, (cells, _) in made.items() if cells]
    if largest not in with_cells or len(with_cells) < 3:
        out = [f"{name}: {reason}" for _, left_out in made.values() for name, reason, _ in left_out]
        raise UserError(
            f"tune.learning_rate: the law needs two sizes and the largest, {largest}, to be held out; with cells are "
            f"{', '.join(with_cells) or 'none'} ({'; '.join(out[:3])}): change budgets"
        )
    return [
        RateCell(name=cell.name, model=models[size], tokens=cell.tokens, held_out=size == largest)
        for size, (cells, _) in made.items()
        for cell in cells
    ]


@dataclass(frozen=True, kw_only=True)
class RateTrials:
    """What a trial of each cell trains."""

    spec: SweepSpec
    corpus: CorpusFacts
    numerics: Numerics
    search: RateSearch
    cells: Sequence[RateCell]

    def config(self, cell: RateCell, suggestion: Suggestion) -> RunConfig:
        """
        Raises:
            UserError: the run is too short for the recipe's warm-up and cooldown.
        """
        seeds = self.spec.seeds.base
        batch = suggestion.parameters.get("batch_rank")
        recipe = self.spec.recipe
        if batch is not None and self.search.batch_tokens is not None:
            recipe = recipe.model_copy(update={"batch_tokens": sorted(self.search.batch_tokens)[batch]})
        return lone_run(
            self.spec,
            self.corpus,
            self.numerics,
            cell.model,
            cell.tokens,
            recipe,
            lr_multiplier=suggestion.parameters["lr_multiple"],
            seed=seeds[suggestion.number % len(seeds)],
        )

    def runs_of(self, cell: RateCell) -> int:
        """How many runs a cell takes at most: its trials, and at a held-out size both recipes at each seed of the check."""
        return self.search.trials + (2 * len(self.search.check_seeds) if cell.held_out else 0)

    def starts(self) -> list[Parameters]:
        """A cell's first trials. Batches take turns as seeds do; where the turns would fall together they are shifted, since
        a batch that always has the same seed is not told from that seed.
        """
        low, high = self.search.lr_multiples.low, self.search.lr_multiples.high
        multiples = [low * (high / low) ** share for share in START_SHARES]
        count = len(self.search.batch_tokens or ())
        if not count:
            return [{"lr_multiple": multiple} for multiple in multiples]
        turn = math.lcm(count, len(self.spec.seeds.base))
        return [{"lr_multiple": x, "batch_rank": (count // 2 + k + k // turn) % count} for k, x in enumerate(multiples)]

    def open_studies(self, storage: BaseStorage, *, seed: int) -> dict[str, Suggestions]:
        """Each cell's study.

        Raises:
            UserError: a study of that name is about other trials, or a cell is too short to be trained.
        """
        from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

        multiples = self.search.lr_multiples
        space: dict[str, BaseDistribution] = {"lr_multiple": FloatDistribution(multiples.low, multiples.high, log=True)}
        if self.search.batch_tokens:
            space["batch_rank"] = IntDistribution(0, len(self.search.batch_tokens) - 1)
        for cell in self.cells:
            for parameters in self.starts():
                self.config(cell, Suggestion(0, parameters))
        return {
            cell.name: Suggestions(
                storage,
                cell.name,
                space=space,
                starts=self.starts(),
                trials=self.search.trials,
                at_once=self.search.at_once,
                seed=seed,
                identity={
                    "tune.learning_rate": self.search.model_dump(mode="json", exclude={"trials", "check_seeds"}),
                    "tune.seed": seed,
                    "recipe": self.spec.recipe.model_dump(mode="json"),
                    "model": cell.model.model_dump(mode="json"),
                    "tokens": cell.tokens,
                    "seeds": self.spec.seeds.base,
                    "evaluation": self.spec.evaluation.model_dump(mode="json"),
                    "corpus": self.corpus.digest,
                    "dtype": self.numerics.dtype,
                },
            )
            for cell in self.cells
        }

    def spared_flops(self, one: Trial) -> float:
        """Training FLOPs that a trial which was stopped did not take."""
        cell = next(cell for cell in self.cells if cell.name == one.cell)
        return cell.flops * (1 - self.search.prune.at) if self.search.prune is not None else 0.0

    def tried(self, cell: RateCell, suggestion: Suggestion) -> Trial:
        """A trial that has not ended."""
        config = self.config(cell, suggestion)
        return Trial(
            cell=cell.name,
            number=suggestion.number,
            state="running",
            run_key=config.key,
            n_params=cell.point.n_params,
            tokens=cell.tokens,
            peak_lr=config.recipe.peak_lr,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
        )


def search_rates(
    trials: RateTrials,
    studies: Mapping[str, Suggestions],
    train: Train,
    *,
    on_change: Callable[[Sequence[Trial]], None] = lambda tried: None,
) -> list[Trial]:
    """Run every trial that is missing; returns all, cell by cell in order. `on_change` sees them before and after each
    generation.
    """
    tried: dict[tuple[str, int], Trial] = {}
    for cell in trials.cells:
        for frozen in studies[cell.name].told:
            one = trials.tried(cell, Suggestion(frozen.number, frozen.params))
            tried[cell.name, frozen.number] = one.model_copy(update=frozen.user_attrs)
    while True:
        generation = [(cell, suggestion) for cell in trials.cells for suggestion in studies[cell.name].generation()]
        for cell, suggestion in generation:
            tried[cell.name, suggestion.number] = trials.tried(cell, suggestion)
        on_change(_in_order(trials, tried))
        if not generation:
            return _in_order(trials, tried)
        for cell, one in _run(trials, generation, tried, train):
            tried[cell.name, one.number] = one
            _tell(studies[cell.name], one)


def _run(
    trials: RateTrials,
    generation: Sequence[tuple[RateCell, Suggestion]],
    tried: Mapping[tuple[str, int], Trial],
    train: Train,
) -> list[tuple[RateCell, Trial]]:
    """Train a generation; with a pruning rule to where it is judged first."""
    rule = trials.search.prune
    configs = {(cell.name, s.number): trials.config(cell, s) for cell, s in generation}
    names = {id: f"{id[0]}-t{id[1]}" for id in configs}
    states = {id: tried[id] for id in configs}
    if rule is not None:
        stretches = {
            id: Stretch(name=names[id], config=c, until_step=judged_step(rule, c)) for id, c in configs.items()
        }
        reached = train(list(stretches.values()))
        for id, config in configs.items():
            loss, diverged = reached[config.key]
            earlier = [
                one.judged_loss
                for (cell, number), one in tried.items()
                if cell == id[0] and number < id[1] - id[1] % trials.search.at_once and one.judged_loss is not None
            ]
            if diverged is None and loss is not None:
                state = "censored" if is_hopeless(rule, loss, earlier) else "running"
                states[id] = states[id].model_copy(update={"judged_loss": loss, "state": state})
    going = [id for id in configs if states[id].state == "running"]
    reached = train([Stretch(name=names[id], config=configs[id], until_step=configs[id].steps or 0) for id in going])
    for id in going:
        loss, diverged = reached[configs[id].key]
        state = "diverged" if diverged is not None else "finished"
        states[id] = states[id].model_copy(update={"loss": loss, "state": state})
    return [(cell, states[cell.name, s.number]) for cell, s in generation]


def _tell(study: Suggestions, one: Trial) -> None:
    outcome = {"state": one.state, "loss": one.loss, "judged_loss": one.judged_loss}
    if one.loss is not None:
        study.tell(one.number, [one.loss], outcome)
    else:
        study.tell_ended_early(one.number, outcome)


def _in_order(trials: RateTrials, tried: Mapping[tuple[str, int], Trial]) -> list[Trial]:
    order = [cell.name for cell in trials.cells]
    return [tried[id] for id in sorted(tried, key=lambda id: (order.index(id[0]), id[1]))]
