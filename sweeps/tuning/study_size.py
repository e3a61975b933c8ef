"""What a tuning study takes at most: every trial to its end, none pruned, none found trained already."""

from __future__ import annotations

from llama.records import Record
from sweeps.designs.design import Design
from sweeps.designs.tune_block import Tune
from sweeps.tuning.rate_search import RateTrials, cells_of
from sweeps.tuning.shape_search import ShapeTrials
from sweeps.words import human


class StudySize(Record):
    """An upper bound."""

    sweep: str
    trials: int
    """Suggestions."""
    runs: int
    """They and the runs beside them: seeds of a shape, the reference, both recipes at the held-out size."""
    tokens: int
    flops: float
    description: str

    @property
    def words(self) -> str:
        return (
            f"{self.sweep}: {self.description}; at most {self.runs} runs, {human(self.tokens)} tokens and {self.flops:.2e} "
            "training FLOPs"
        )


def study_size(design: Design, tune: Tune) -> StudySize:
    """
    Raises:
        UserError: the sweep's cells make no study.
    """
    if tune.learning_rate is not None:
        cells = cells_of(design.spec, design.corpus, design.numerics)
        trials = RateTrials(
            spec=design.spec, corpus=design.corpus, numerics=design.numerics, search=tune.learning_rate, cells=cells
        )
        runs = [trials.runs_of(cell) for cell in cells]
        return StudySize(
            sweep=design.spec.name,
            trials=len(cells) * tune.learning_rate.trials,
            runs=sum(runs),
            tokens=sum(count * cell.tokens for count, cell in zip(runs, cells, strict=True)),
            flops=sum(count * cell.flops for count, cell in zip(runs, cells, strict=True)),
            description=f"{len(cells)} sizes and horizons, {tune.learning_rate.trials} trials each",
        )
    assert tune.shape is not None  # a study has one of the two
    shapes = ShapeTrials(spec=design.spec, corpus=design.corpus, numerics=design.numerics, search=tune.shape)
    seeds = len(design.spec.seeds.base)
    count = tune.shape.trials * seeds
    return StudySize(
        sweep=design.spec.name,
        trials=tune.shape.trials,
        runs=count + seeds,
        tokens=count * shapes.most_tokens() + seeds * shapes.tokens(shapes.reference),
        flops=(count + seeds) * shapes.flops,
        description=f"{tune.shape.trials} shapes at {shapes.flops:.3g} FLOPs, and the reference",
    )
