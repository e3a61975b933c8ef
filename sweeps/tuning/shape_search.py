"""The search for shapes: one study with two objectives, loss at fixed compute and measured decode cost.

A trial is a shape. It trains on as many tokens as the sweep's one budget of FLOPs buys it, by the sweep's recipe, at each of
the sweep's seeds, and its loss is their mean. What it costs to serve is measured, not computed: each generation's shapes
together with the reference (the ladder's one shape), interleaved, nothing else running. The cost of a trial is its ratio to the
reference in that measurement, so that a machine that is slow today is slow for both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llama.accounting import count_parameters
from llama.config import ModelConfig, RunConfig
from llama.errors import UserError
from llama.records import InferenceCost, Record
from sweeps.designs.budgets import budget_tokens
from sweeps.designs.numerics import Numerics
from sweeps.designs.run_configs import CorpusFacts, lone_run
from sweeps.designs.spec import SweepSpec
from sweeps.designs.tune_block import ShapeSearch
from sweeps.tuning.suggestions import Parameters, Suggestion, Suggestions
from sweeps.tuning.trials import Stretch, Train, TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

STUDY = "shape"
REFERENCE = "reference"
#: A feed-forward width is a multiple of this.
FF_MULTIPLE = 8

Measure = Callable[[str, Mapping[str, ModelConfig], Mapping[str, Sequence[str]]], Mapping[str, InferenceCost]]
"""Measures shapes together under a name: what was measured under it once is not measured again. Takes the run keys of each
shape too, and leaves the cost in their folders.
"""


class ShapeTrial(Record):
    """One trial of a search for shapes."""

    number: int
    """-1 for the reference."""
    state: TrialState
    run_keys: list[str]
    """One a seed."""
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    n_params: int
    tokens: int
    loss: float | None = None
    """Mean over seeds of the final validation loss."""
    decode_cost: float | None = None
    """Seconds a decoded token at the saturating batch, over the reference's measured beside it."""


@dataclass(frozen=True, kw_only=True)
class ShapeTrials:
    """What a trial trains."""

    spec: SweepSpec
    corpus: CorpusFacts
    numerics: Numerics
    search: ShapeSearch

    @property
    def reference(self) -> ModelConfig:
        """The ladder's one shape."""
        return next(iter(self.spec.ladder.models(self.corpus.vocab_size).values()))

    @property
    def flops(self) -> float:
        """The sweep's one budget."""
        size, model = next(iter(self.spec.ladder.models(self.corpus.vocab_size).items()))
        return self.spec.parts[0].wanted(size, model.d_model)[0].budget

    def tokens(self, model: ModelConfig) -> int:
        """What the budget buys a shape."""
        return budget_tokens("flops", self.flops, model)

    def most_tokens(self) -> int:
        """What it buys the shape, among those that may be suggested, that trains on most.

        Raises:
            UserError: no shape may be suggested.
        """
        lists = {name: range(len(values)) for name, values in self._lists().items()}
        every = (dict(zip(lists, ranks, strict=True)) for ranks in itertools.product(*lists.values()))
        found = [self.tokens(self.model(parameters)) for parameters in every if self.accepts(parameters)]
        if not found:
            raise UserError("tune.shape: no shape of these lists fits: widen n_params, or train for longer")
        return max(found)

    def space(self) -> dict[str, BaseDistribution]:
        """Each list as the rank of its values: they are ordered, and a sampler that knows it needs fewer trials."""
        from optuna.distributions import IntDistribution

        return {name: IntDistribution(0, len(values) - 1) for name, values in self._lists().items()}

    def _lists(self) -> dict[str, list[Any]]:
        search = self.search
        return {
            "width": sorted(search.widths),
            "layers": sorted(search.layers),
            "heads": sorted(search.heads),
            "queries_per_kv_head": sorted(search.queries_per_kv_head),
            "ff_ratio": sorted(search.ff_ratios),
        }

    def model(self, parameters: Parameters) -> ModelConfig:
        chosen = {name: values[parameters[name]] for name, values in self._lists().items()}
        width, heads = chosen["width"], chosen["heads"]
        return self.reference.model_copy(
            update={
                "d_model": width,
                "n_layers": chosen["layers"],
                "n_heads": heads,
                "n_kv_heads": heads // math.gcd(heads, chosen["queries_per_kv_head"]),
                "d_ff": FF_MULTIPLE * max(1, round(width * chosen["ff_ratio"] / FF_MULTIPLE)),
            }
        )

    def accepts(self, parameters: Parameters) -> bool:
        """Whether a draw is as large as was asked for, and small enough to train for more than its warm-up."""
        model, wanted = self.model(parameters), self.search.n_params
        if wanted is not None and not wanted.low <= count_parameters(model).n_params <= wanted.high:
            return False
        try:
            self.configs(model)
        except UserError:
            return False
        return True

    def configs(self, model: ModelConfig) -> list[RunConfig]:
        """A run for each seed."""
        tokens = self.tokens(model)
        return [
            lone_run(self.spec, self.corpus, self.numerics, model, tokens, self.spec.recipe, seed=seed)
            for seed in self.spec.seeds.base
        ]

    def open_study(self, storage: BaseStorage, *, seed: int) -> Suggestions:
        """
        Raises:
            UserError: a study of that name is about other trials.
        """
        return Suggestions(
            storage,
            STUDY,
            space=self.space(),
            n_objectives=2,
            trials=self.search.trials,
            at_once=self.search.at_once,
            seed=seed,
            accepts=self.accepts,
            identity={
                "tune.shape": self.search.model_dump(mode="json", exclude={"trials"}),
                "tune.seed": seed,
                "recipe": self.spec.recipe.model_dump(mode="json"),
                "flops": self.flops,
                "ladder": self.spec.ladder.model_dump(mode="json"),
                "seeds": self.spec.seeds.base,
                "evaluation": self.spec.evaluation.model_dump(mode="json"),
                "inference": self.spec.inference and self.spec.inference.model_dump(mode="json"),
                "corpus": self.corpus.digest,
                "dtype": self.numerics.dtype,
            },
        )

    def shaped(self, number: int, model: ModelConfig) -> ShapeTrial:
        """A trial that has not ended."""
        configs = self.configs(model)
        return ShapeTrial(
            number=number,
            state="running",
            run_keys=[config.key for config in configs],
            n_params=count_parameters(model).n_params,
            tokens=configs[0].tokens or 0,
            **{name: getattr(model, name) for name in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")},
        )


def search_shapes(
    trials: ShapeTrials,
    study: Suggestions,
    train: Train,
    measure: Measure,
    *,
    on_change: Callable[[Sequence[ShapeTrial]], None] = lambda shaped: None,
) -> list[ShapeTrial]:
    """Run every trial that is missing; returns the reference and then all trials in order."""
    told = []
    for frozen in study.told:
        one = trials.shaped(frozen.number, trials.model(frozen.params))
        told.append(one.model_copy(update=frozen.user_attrs))
    reference = trials.shaped(-1, trials.reference)
    on_change([reference, *told])
    losses = _losses(trials, {REFERENCE: trials.reference}, train)
    state: TrialState = "finished" if losses[REFERENCE] is not None else "diverged"
    outcome = {"state": state, "loss": losses[REFERENCE], "decode_cost": 1.0}
    shaped = [reference.model_copy(update=outcome), *told]
    on_change(shaped)
    while generation := study.generation():
        running = [trials.shaped(s.number, trials.model(s.parameters)) for s in generation]
        on_change([*shaped, *running])
        shaped += _run(trials, study, generation, running, train, measure)
        on_change(shaped)
    return shaped


def _run(
    trials: ShapeTrials,
    study: Suggestions,
    generation: Sequence[Suggestion],
    running: Sequence[ShapeTrial],
    train: Train,
    measure: Measure,
) -> list[ShapeTrial]:
    """Train a generation, measure it, and tell it in order."""
    models = {f"t{s.number}": trials.model(s.parameters) for s in generation}
    losses = _losses(trials, models, train)
    keys = {f"t{one.number}": one.run_keys for one in running}
    first = generation[0].number  # of what is left of the generation, which was perhaps measured before a crash
    costs = measure(f"t{first - first % trials.search.at_once}", {REFERENCE: trials.reference, **models}, keys)
    ended = []
    for one in running:
        name = f"t{one.number}"
        loss = losses[name]
        state: TrialState = "diverged" if loss is None else "finished"
        cost = seconds_a_token(costs[name]) / seconds_a_token(costs[REFERENCE])
        outcome = {"state": state, "loss": loss, "decode_cost": cost}
        ended.append(one.model_copy(update=outcome))
        if loss is None:
            study.tell_ended_early(one.number, outcome)
        else:
            study.tell(one.number, [loss, cost], outcome)
    return ended


def _losses(trials: ShapeTrials, models: Mapping[str, ModelConfig], train: Train) -> dict[str, float | None]:
    """Mean loss of each shape over the seeds; None where one diverged."""
    configs = {name: trials.configs(model) for name, model in models.items()}
    reached = train(
        [
            Stretch(name=f"{STUDY}-{name}-s{config.seed}", config=config, until_step=config.steps or 0)
            for name, runs in configs.items()
            for config in runs
        ]
    )
    means: dict[str, float | None] = {}
    for name, runs in configs.items():
        losses = [reached[config.key].loss for config in runs]
        known = [loss for loss in losses if loss is not None]
        means[name] = float(np.mean(known)) if len(known) == len(losses) else None
    return means


def seconds_a_token(cost: InferenceCost) -> float:
    """Of one decoded token at the batch where tokens a second stop growing."""
    return 1 / cost.saturated.decode_tokens_per_second
