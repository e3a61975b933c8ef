"""What a search for rates found: each cell's optimum, the laws, the recipe they make, and how it did at the held-out size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import yaml
from scipy.special import stdtrit

from llama.config import RunConfig
from llama.errors import UserError
from llama.recipes.tuned_law import Range, TunedLaw
from llama.records import Record
from sweeps.designs.run_configs import lone_run
from sweeps.designs.spec import RecipeSpec
from sweeps.tuning.optimum import Curve
from sweeps.tuning.rate_law import FittedLaw, RateLaws, fit_rate_laws
from sweeps.tuning.rate_search import RateCell, RateTrials
from sweeps.tuning.trials import Stretch, Train, Trial

Interval = tuple[float, float]


class CellOptimum(Record):
    """The best rate and batch of a size and horizon."""

    cell: str
    n_params: int
    tokens: int
    held_out: bool
    peak_lr: float
    peak_lr_ci95: Interval
    batch_tokens: float
    batch_tokens_ci95: Interval
    loss: float
    """The curve's, at its lowest."""
    edges: list[str]
    """Why it is no minimum, and no point of the law; empty where it is one."""
    at_edge: float
    """Share of the resamples whose best rate lies at an end of what finished: the interval may reach further there."""
    default_lr: float
    """The sweep's own recipe's."""
    finished: int
    censored: int
    diverged: int


class LawEstimate(Record):
    """value = at_middle (N / middle of n)^n_exponent (D / middle of d)^d_exponent, with 95 % intervals; None for an exponent
    that the cells don't tell.
    """

    n: Range
    d: Range
    at_middle: float
    at_middle_ci95: Interval
    n_exponent: float | None
    n_exponent_ci95: Interval | None
    d_exponent: float | None
    d_exponent_ci95: Interval | None
    cells: list[str]

    @classmethod
    def of(cls, law: FittedLaw) -> LawEstimate:
        told = law.power_law.model_dump() | dict.fromkeys(law.fixed)
        return cls(
            **told,
            n=law.n,
            d=law.d,
            at_middle_ci95=law.interval(0),
            n_exponent_ci95=None if "n_exponent" in law.fixed else law.interval(1),
            d_exponent_ci95=None if "d_exponent" in law.fixed else law.interval(2),
            cells=list(law.cells),
        )

    @property
    def words(self) -> str:
        """`N^-0.31 D^-0.31, 95 % [-0.90, 0.54] and [-0.81, 0.30]`."""
        both = (("N", self.n_exponent, self.n_exponent_ci95), ("D", self.d_exponent, self.d_exponent_ci95))
        told = [
            (letter, value, interval) for letter, value, interval in both if value is not None and interval is not None
        ]
        unknown = [f"{letter}'s exponent can't be told" for letter, value, _ in both if value is None]
        powers = " ".join(f"{letter}^{value:.2f}" for letter, value, _ in told)
        intervals = " and ".join(f"[{low:.2f}, {high:.2f}]" for _, _, (low, high) in told)
        return ", ".join([f"{powers}, 95 % {intervals}"] * bool(told) + unknown)


class HeldOutCheck(Record):
    """The law at a size that it never saw."""

    cell: str
    predicted_lr: float
    predicted_lr_ci95: Interval
    best_lr: float
    """By the cell's own trials."""
    best_lr_ci95: Interval
    best_is_edge: bool
    predicted_batch: float
    best_batch: float
    cost_of_prediction: float
    """Nats, by the curve through the cell's own trials, that the predicted rate and batch lie above its lowest point."""
    default_lr: float
    seeds: list[int]
    tuned_losses: list[float | None]
    default_losses: list[float | None]
    difference: float | None
    """Mean over seeds of the tuned recipe's loss less the default's; None where one of them diverged."""
    difference_ci95: Interval | None
    """By Student's t over the pairs."""

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart", "diverged"]:
        if self.difference_ci95 is None:
            return "diverged"
        low, high = self.difference_ci95
        return "better" if high < 0 else "worse" if low > 0 else "not told apart"

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        if self.difference is None or self.difference_ci95 is None:
            return f"{self.cell}: a run of one of the recipes diverged, so they are not compared"
        low, high = self.difference_ci95
        said = {
            "better": "the tuned recipe beats the sweep's own",
            "worse": "the tuned recipe is worse than the sweep's own",
            "not told apart": "the tuned recipe and the sweep's own are not told apart",
        }[self.verdict]
        return (
            f"{self.cell}: {said}: {self.difference:+.4f} nats, 95 % [{low:+.4f}, {high:+.4f}] over {len(self.seeds)} seeds; "
            f"the predicted rate is {self.predicted_lr:.3g}, its own best {self.best_lr:.3g}"
        )


class RateStudy(Record):
    """The study's document."""

    sweep: str
    date: str
    noise: float
    """Standard deviation of a trial's loss around its cell's curve, in nats."""
    cells: list[CellOptimum]
    peak_lr: LawEstimate
    batch_tokens: LawEstimate
    held_out: list[HeldOutCheck]
    recipe: dict[str, Any]
    """The block `recipe` for a sweep's YAML."""
    warnings: list[str]

    @property
    def headline(self) -> str:
        return "; ".join([f"best rate ~ {self.peak_lr.words}", *(check.words for check in self.held_out)])

    def recipe_yaml(self) -> str:
        """The recipe as a sweep's YAML holds it, with where it comes from."""
        law = self.peak_lr
        comments = [
            f"Found by the tuning study {self.sweep}, {self.date}.",
            f"Best rate ~ {law.words};",
            f"at the middle {_span(law.at_middle_ci95)}. Fitted to {', '.join(law.cells)}.",
            *(check.words for check in self.held_out),
        ]
        body = yaml.safe_dump({"recipe": self.recipe}, sort_keys=False, default_flow_style=False)
        return "".join(f"# {line}\n" for line in comments) + body


def _span(interval: Interval) -> str:
    return f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def fit_study(trials: RateTrials, tried: Sequence[Trial], *, seed: int) -> tuple[RateLaws, dict[str, Curve]]:
    """The laws, and each cell's curve.

    Raises:
        UserError: a cell has too few finished trials, or the cells tell no law.
    """
    curves: dict[str, Curve] = {}
    for cell in trials.cells:
        try:
            curves[cell.name] = Curve([one for one in tried if one.cell == cell.name])
        except ValueError as error:
            raise UserError(f"tune: {cell.name}: {error}; raise tune.learning_rate.trials, or prune fewer") from None
    held_out = [cell.name for cell in trials.cells if cell.held_out]
    points = {cell.name: cell.point for cell in trials.cells}
    return fit_rate_laws(curves, points, held_out=held_out, seed=seed), curves


#: What a person set under `recipe` that the law takes the place of.
_REPLACED = {"name", "peak_lr", "batch_tokens", "warmup_tokens", "lr_multipliers", "reference_budget", "tuned"}
_BASES = {"base_width", "base_layers", "base_d_head"}


def recipe_of(trials: RateTrials, laws: RateLaws, *, date: str) -> RecipeSpec:
    """The recipe that the laws make: theirs, and beside them what the study held fixed."""
    own = trials.spec.recipe
    first = default_config(trials, trials.cells[0], seed=0)
    law = TunedLaw(
        study=trials.spec.name,
        date=date,
        objective="val/loss",
        counting="n_params",
        n=laws.peak_lr.n,
        d=laws.peak_lr.d,
        peak_lr=laws.peak_lr.power_law,
        batch_tokens=laws.batch_tokens.power_law,
        warmup_steps=round(first.recipe.warmup_tokens / first.batch_tokens),
    )
    held = own.model_dump(exclude_none=True, exclude=_REPLACED | _BASES)
    schedule = {} if own.effective_schedule == "wsd" else {"schedule": own.effective_schedule}
    return RecipeSpec.model_validate({"name": "tuned", **schedule, **held, "tuned": law.model_dump()})


def default_config(trials: RateTrials, cell: RateCell, *, seed: int, recipe: RecipeSpec | None = None) -> RunConfig:
    """A cell's run by the sweep's own recipe, or by another."""
    spec = trials.spec
    return lone_run(spec, trials.corpus, trials.numerics, cell.model, cell.tokens, recipe or spec.recipe, seed=seed)


def check_runs(trials: RateTrials, tuned: RecipeSpec) -> dict[tuple[str, str, int], Stretch]:
    """The runs that hold the tuned recipe against the sweep's own: by cell, recipe and seed."""
    runs = {}
    for cell in trials.cells:
        for label, recipe in (("tuned", tuned), ("default", trials.spec.recipe)):
            for seed in trials.search.check_seeds if cell.held_out else ():
                config = default_config(trials, cell, seed=seed, recipe=recipe)
                name = f"{cell.name}-{label}-s{seed}"
                runs[cell.name, label, seed] = Stretch(name=name, config=config, until_step=config.steps or 0)
    return runs


def check_held_out(
    trials: RateTrials, laws: RateLaws, curves: Mapping[str, Curve], tuned: RecipeSpec, train: Train
) -> list[HeldOutCheck]:
    """Train the tuned recipe and the sweep's own at the held-out cells, seed by seed, and compare."""
    runs = check_runs(trials, tuned)
    reached = train(list(runs.values()))
    checks = []
    for cell in trials.cells:
        if not cell.held_out:
            continue
        losses = {
            label: [reached[runs[cell.name, label, seed].config.key].loss for seed in trials.search.check_seeds]
            for label in ("tuned", "default")
        }
        difference, interval = paired_difference(losses["tuned"], losses["default"])
        optimum, curve = laws.optima[cell.name], curves[cell.name]
        lr, lr_interval = laws.peak_lr.at(cell.point)
        batch, _ = laws.batch_tokens.at(cell.point)
        above = float(curve.at(np.log(lr), np.log(batch))[0]) - optimum.loss
        checks.append(
            HeldOutCheck(
                cell=cell.name,
                predicted_lr=lr,
                predicted_lr_ci95=lr_interval,
                best_lr=optimum.peak_lr,
                best_lr_ci95=laws.intervals[cell.name],
                best_is_edge=not optimum.has_rate,
                predicted_batch=batch,
                best_batch=optimum.batch_tokens,
                cost_of_prediction=above,
                default_lr=default_config(trials, cell, seed=0).recipe.peak_lr,
                seeds=trials.search.check_seeds,
                tuned_losses=losses["tuned"],
                default_losses=losses["default"],
                difference=difference,
                difference_ci95=interval,
            )
        )
    return checks


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[float, Interval] | tuple[None, None]:
    """Mean of first less second over pairs, and its 95 % interval by Student's t; none where a run has no loss."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < len(first):
        return None, None
    differences = np.array([a - b for a, b in pairs])
    mean = float(differences.mean())
    half = float(stdtrit(len(pairs) - 1, 0.975) * differences.std(ddof=1) / np.sqrt(len(pairs)))
    return mean, (mean - half, mean + half)


def study_of(
    trials: RateTrials, tried: Sequence[Trial], laws: RateLaws, tuned: RecipeSpec, checks: Sequence[HeldOutCheck]
) -> RateStudy:
    """All of it in one document."""
    cells = []
    for cell in trials.cells:
        optimum, mine = laws.optima[cell.name], [one for one in tried if one.cell == cell.name]
        cells.append(
            CellOptimum(
                cell=cell.name,
                n_params=cell.point.n_params,
                tokens=cell.tokens,
                held_out=cell.held_out,
                peak_lr=optimum.peak_lr,
                peak_lr_ci95=laws.intervals[cell.name],
                batch_tokens=optimum.batch_tokens,
                batch_tokens_ci95=laws.batch_intervals[cell.name],
                loss=optimum.loss,
                edges=[str(edge) for edge in optimum.edges],
                at_edge=laws.at_edge[cell.name],
                default_lr=default_config(trials, cell, seed=0).recipe.peak_lr,
                **{state: sum(one.state == state for one in mine) for state in ("finished", "censored", "diverged")},
            )
        )
    assert tuned.tuned is not None  # a tuned recipe has its law
    return RateStudy(
        sweep=trials.spec.name,
        date=tuned.tuned.date,
        noise=laws.noise,
        cells=cells,
        peak_lr=LawEstimate.of(laws.peak_lr),
        batch_tokens=LawEstimate.of(laws.batch_tokens),
        held_out=list(checks),
        recipe={"name": tuned.name} | tuned.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        warnings=list(laws.warnings),
    )
