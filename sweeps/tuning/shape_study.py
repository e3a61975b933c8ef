"""What a search for shapes found: the front of loss against decode cost, and what each part of a shape accounts for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pandas as pd

from analysis.plots import style
from analysis.plots.gallery import save_picture
from analysis.plots.picture import Axis, Layer, Line, Panel, Picture, Points
from llama.config import digest
from llama.errors import UserError
from llama.records import InferenceCost, Record
from sweeps.tuning.importances import EVALUATOR, Importance, importances
from sweeps.tuning.pareto import pareto_front
from sweeps.tuning.shape_search import REFERENCE, Measure, ShapeTrial, ShapeTrials, seconds_a_token
from sweeps.tuning.suggestions import Suggestions

TRIALS = "trials.csv"
FRONT = "front.csv"
#: Trials below which a forest says nothing of importances.
LEAST_FOR_IMPORTANCES = 10
_WORDS = {
    "width": "width",
    "layers": "depth",
    "heads": "heads",
    "queries_per_kv_head": "queries a KV head",
    "ff_ratio": "feed-forward ratio",
}


class FrontShape(Record):
    """A shape that no other beats on both counts; or the reference, for comparison."""

    trial: ShapeTrial
    seconds_a_token: float
    """A decoded token at the saturating batch, all of the front measured again together."""
    decode_cost: float
    """Over the reference's in that measurement: what holds, where the trial's own, by which it came to the front, was lucky."""


class ShapeStudy(Record):
    """The study's document."""

    sweep: str
    flops: float
    """Training FLOPs of every trial."""
    evaluator: str
    """What the importances are."""
    reference: FrontShape
    front: list[FrontShape]
    """By decode cost ascending, of the trials and the reference."""
    loss_importances: list[Importance]
    cost_importances: list[Importance]
    finished: int
    """Trials."""
    shapes: int
    """Of these trials: a shape that was suggested again was measured again, and counts with the median."""
    diverged: int
    warnings: list[str]

    @property
    def headline(self) -> str:
        base = self.reference.trial
        beaten = [one for one in self.front if one.trial.number >= 0 and _beats(one, self.reference)]
        on_front = sum(one.trial.number >= 0 for one in self.front)
        said = f"{on_front} of {self.shapes} shapes are on the front"
        if on_front < len(self.front):
            said += ", and so is the reference"
        if not beaten:
            return (
                f"{said}; none has both a lower loss and a lower decode cost than the reference ({shape_words(base)})"
            )
        best = min(beaten, key=lambda one: one.trial.loss or float("inf"))
        gain = (base.loss or 0.0) - (best.trial.loss or 0.0)
        return (
            f"{said}; {len(beaten)} beat the reference ({shape_words(base)}) on both counts, {shape_words(best.trial)} by "
            f"{gain:.3f} nats at {best.decode_cost:.2f} of its decode cost"
        )


def _beats(one: FrontShape, other: FrontShape) -> bool:
    if one.trial.loss is None or other.trial.loss is None:
        return False
    return one.trial.loss < other.trial.loss and one.decode_cost < other.decode_cost


def shape_words(one: ShapeTrial) -> str:
    """`d32 L3 h2/2 ff88`."""
    return f"d{one.d_model} L{one.n_layers} h{one.n_heads}/{one.n_kv_heads} ff{one.d_ff}"


def study_of(
    trials: ShapeTrials, study: Suggestions, shaped: Sequence[ShapeTrial], measure: Measure, *, seed: int
) -> ShapeStudy:
    """The document; the front is measured once more, all of it together.

    Raises:
        UserError: every trial diverged.
    """
    finished = distinct([one for one in shaped if one.loss is not None and one.decode_cost is not None])
    if not any(one.number >= 0 for one in finished):
        raise UserError(f"tune: all {len(shaped) - 1} shapes diverged, so there is no front: lower the recipe's rate")
    places = [(one.loss or 0.0, one.decode_cost or 0.0) for one in finished]
    front = [finished[k] for k in pareto_front(places)]
    again = _measured_again(trials, study, front, measure)
    reference = next(one for one in shaped if one.number < 0)
    rows = [told for told in study.told if told.values is not None]
    enough = len(rows) >= LEAST_FOR_IMPORTANCES
    warnings = [] if enough else [f"{len(rows)} trials are too few for importances"]
    if reference.loss is None:
        warnings.append("the reference diverged: there is no loss to compare with")
    shares = [
        importances(trials.space(), [row.params for row in rows], [row.values[k] for row in rows], seed=seed)
        if enough
        else []
        for k in (0, 1)
    ]
    return ShapeStudy(
        sweep=trials.spec.name,
        flops=trials.flops,
        evaluator=EVALUATOR,
        reference=_front_shape(reference, again),
        front=[_front_shape(one, again) for one in front],
        loss_importances=shares[0],
        cost_importances=shares[1],
        finished=len(rows),
        shapes=sum(one.number >= 0 for one in finished),
        diverged=sum(one.state == "diverged" for one in shaped),
        warnings=warnings,
    )


def distinct(shaped: Sequence[ShapeTrial]) -> list[ShapeTrial]:
    """One row a shape, its first trial's, with the median of what it was measured to cost."""
    costs: dict[tuple[str, ...], list[float]] = {}
    for one in shaped:
        costs.setdefault(tuple(one.run_keys), []).append(one.decode_cost or 0.0)
    firsts = {tuple(one.run_keys): one for one in reversed(shaped)}
    return [firsts[keys].model_copy(update={"decode_cost": median(costs[keys])}) for keys in costs]


def _measured_again(
    trials: ShapeTrials, study: Suggestions, front: Sequence[ShapeTrial], measure: Measure
) -> dict[str, InferenceCost]:
    parameters = {told.number: told.params for told in study.told}
    models = {f"t{one.number}": trials.model(parameters[one.number]) for one in front if one.number >= 0}
    return dict(measure(f"front-{digest(sorted(models))[:16]}", {REFERENCE: trials.reference, **models}, {}))


def _front_shape(one: ShapeTrial, costs: dict[str, InferenceCost]) -> FrontShape:
    seconds = seconds_a_token(costs[f"t{one.number}" if one.number >= 0 else REFERENCE])
    return FrontShape(trial=one, seconds_a_token=seconds, decode_cost=seconds / seconds_a_token(costs[REFERENCE]))


def write_shape_report(study: ShapeStudy, shaped: Sequence[ShapeTrial], folder: Path) -> None:
    """Tables and pictures; files of one name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    _table(shaped).to_csv(folder / TRIALS, index=False, float_format="%.8g", lineterminator="\n")
    front = _table([one.trial for one in study.front]).assign(
        decode_cost_again=[one.decode_cost for one in study.front],
        seconds_a_token=[one.seconds_a_token for one in study.front],
    )
    front.to_csv(folder / FRONT, index=False, float_format="%.8g", lineterminator="\n")
    save_picture(front_picture(study, shaped), folder)
    if study.loss_importances:
        save_picture(importance_picture(study), folder)


def _table(shaped: Sequence[ShapeTrial]) -> pd.DataFrame:
    return pd.DataFrame([one.model_dump() | {"run_keys": " ".join(one.run_keys)} for one in shaped])


def front_picture(study: ShapeStudy, shaped: Sequence[ShapeTrial]) -> Picture:
    """Loss against decode cost: every trial, the front, and the reference."""
    finished = [one for one in shaped if one.loss is not None and one.number >= 0]
    colours = style.size_colours(one.n_layers for one in finished)
    layers: list[Layer] = []
    front = pd.DataFrame(
        [{"decode_cost": o.trial.decode_cost, "loss": o.trial.loss, "shape": shape_words(o.trial)} for o in study.front]
    )
    layers.append(Line(table=front, series="front", colour=style.ACCENT, legend="front", width=1.2))
    for depth, colour in colours.items():
        rows = [one for one in finished if one.n_layers == depth]
        layers.append(
            Points(
                table=pd.DataFrame([row.model_dump() for row in rows]),
                series=f"trials of {depth:g} layers",
                colour=colour,
                legend=f"{depth:g} layer" if depth == 1 else f"{depth:g} layers",
                size=5,
            )
        )
    again = pd.DataFrame([{"decode_cost": o.decode_cost, "loss": o.trial.loss} for o in study.front])
    layers.append(
        Points(
            table=again,
            series="front, measured again",
            colour=style.ACCENT,
            legend="front, measured again",
            hollow=True,
            size=4,
        )
    )
    base = study.reference.trial
    if base.loss is not None:
        table = pd.DataFrame({"decode_cost": [1.0], "loss": [base.loss]})
        layers.append(
            Points(table=table, series="reference", colour=style.SECOND, legend="reference", marker="square", size=7)
        )
    losses = sorted(one.loss for one in finished if one.loss is not None)
    top = losses[min(len(losses) - 1, int(0.95 * len(losses)))]
    limits = (losses[0] - 0.1 * (top - losses[0]), top + 0.1 * (top - losses[0]))
    return Picture(
        stem="decode-cost",
        title="Loss against what decoding costs, at one training compute",
        caption=(
            f"Every trial trained with {style.format_number(study.flops, 'power')} FLOPs. Decode cost: seconds a token at the "
            f"saturating batch, over the reference's ({shape_words(base)}) measured beside it. A point is a trial; the "
            "front is of shapes, by the median of their trials' costs. Hollow: all of it measured again together."
        ),
        panels=[
            Panel(
                x=Axis(column="decode_cost", label="decode cost, times the reference's", unit="plain"),
                y=Axis(column="loss", label="validation loss, nats a token", unit="plain", log=False, limits=limits),
                layers=layers,
            )
        ],
    )


def importance_picture(study: ShapeStudy) -> Picture:
    """Shares of variance, a row a parameter, for both objectives."""
    panels = []
    names = [one.parameter for one in reversed(study.loss_importances)]
    places = tuple(float(k) for k in range(len(names)))
    texts = tuple(_WORDS[name] for name in names)
    columns = (
        ("of the loss", study.loss_importances, texts),
        ("of the decode cost", study.cost_importances, ("",) * len(names)),
    )
    for title, found, row_texts in columns:
        layers: list[Layer] = []
        for one in found:
            row = float(names.index(one.parameter))
            bar = pd.DataFrame({"share": list(one.ci90), "row": [row, row]})
            point = pd.DataFrame({"share": [one.share], "row": [row]})
            layers.append(Line(table=bar, series=f"{one.parameter}, 90 %", colour=style.SECOND, width=1.4))
            layers.append(Points(table=point, series=one.parameter, colour=style.SECOND, size=6))
        panels.append(
            Panel(
                x=Axis(column="share", label="share of the variance", unit="percent", log=False, limits=(0.0, 1.0)),
                y=Axis(
                    column="row",
                    label="",
                    unit="plain",
                    log=False,
                    limits=(-0.6, len(names) - 0.4),
                    ticks=places,
                    texts=row_texts,
                ),
                layers=layers,
                title=title,
            )
        )
    return Picture(
        stem="importances",
        title="What a shape's parts account for",
        caption=(
            f"{study.evaluator}: the share of an objective's variance over the searched space that a parameter's main effect "
            f"accounts for, from {study.finished} trials. Bars: 90 % of fits to trials drawn with replacement."
        ),
        panels=panels,
    )


def shape_metrics(study: ShapeStudy) -> dict[str, float]:
    """For MLflow's parent run."""
    metrics = {"tune/front": float(len(study.front))}
    for kind, found in (("loss", study.loss_importances), ("decode_cost", study.cost_importances)):
        metrics |= {f"tune/importance/{kind}/{one.parameter}": one.share for one in found}
    return metrics
