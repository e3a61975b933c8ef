"""Runs that a sweep could make next: shapes of its ladder and the widths beside them, or its own runs that aren't finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import ModelConfig
from llama.errors import UserError
from llama.metric_names import TAG_SIZE
from llama.records import complete_steps, read_checkpoint_mark, read_config, read_done
from sweeps.designs.ladder import model_for_width
from sweeps.designs.spec import load_sweep
from sweeps.storage import SWEEP_YAML, Storage, SweepFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.next.candidates import Candidates, Size, Trunk
    from analysis.results import Fit
    from llama.sweep_index import SweepRun
    from sweeps.designs.design import Design

#: Widths beyond a ladder's own go by its last step, in whole ones of this.
WIDTH_STEP = 16


def ladder_sizes(sweep: SweepFolder, counting: str) -> list[Size]:
    """The ladder's shapes, and a width more at either end where it is a ladder of widths.

    Raises:
        UserError: no run of the sweep has started, so that its vocabulary is unknown.
    """
    from analysis.next.candidates import Size

    ladder = load_sweep(sweep.folder / SWEEP_YAML).ladder
    vocab_size = _some_model(sweep).vocab_size
    models = ladder.models(vocab_size)
    for width in _widths_beside(sorted(ladder.widths or [])):
        models[f"w{width}"] = model_for_width(width, vocab_size=vocab_size, context_length=ladder.context_length)
    trunks: dict[str, list[Trunk]] = {}
    for record in sweep.index.runs:
        trunk = _standing(sweep.storage, record, sweep.index.runs) if record.is_trunk else None
        if trunk is not None:
            trunks.setdefault(record.tags[TAG_SIZE], []).append(trunk)
    return [
        Size(
            label,
            float(getattr(count_parameters(model), counting)),
            training_flops_per_token(model),
            tuple(trunks.get(label, ())),
        )
        for label, model in models.items()
    ]


def missing_runs(design: Design, storage: Storage, fit: Fit) -> Candidates:
    """The design's own runs that are not finished, each at what it would cost from scratch, a standing trunk or not.

    Raises:
        UserError: all are finished.
    """
    import numpy as np

    from analysis.next.candidates import of_arrays

    rows = []
    for run in design.runs:
        tokens = run.config.tokens
        if tokens is None or read_done(storage.run(run.record.key)) is not None:
            continue
        n_params = float(getattr(count_parameters(run.config.model), fit.counting))
        flops = tokens * training_flops_per_token(run.config.model)
        rows.append((run.record.name, run.size, n_params, tokens, flops))
    if not rows:
        raise UserError(f"every run of the sweep {design.spec.name} is finished: leave out --candidates missing")
    names, sizes, *numbers = zip(*rows, strict=True)
    return of_arrays(fit, *(np.array(column, dtype=np.float64) for column in numbers), names=names, sizes=sizes)


def _standing(storage: Storage, record: SweepRun, runs: Sequence[SweepRun]) -> Trunk | None:
    """The trunk's checkpoints and where its branches fork; None where it has neither."""
    from analysis.next.candidates import Trunk

    folder = storage.run(record.key)
    marks = [read_checkpoint_mark(folder, step) for step in complete_steps(folder)]
    standing = tuple(float(mark.tokens) for mark in marks if mark is not None)
    shares = [
        run.fork_tokens / run.tokens for run in runs if run.trunk == record.key and run.fork_tokens and run.tokens
    ]
    return Trunk(record.key, standing, max(shares)) if standing and shares else None


def _widths_beside(widths: list[int]) -> list[int]:
    """One below the least and one above the largest, at the ladder's own steps."""
    if len(widths) < 2:
        return []
    below = round(widths[0] ** 2 / widths[1] / WIDTH_STEP) * WIDTH_STEP
    above = round(widths[-1] ** 2 / widths[-2] / WIDTH_STEP) * WIDTH_STEP
    return [width for width in (below, above) if width > 0 and width not in widths]


def _some_model(sweep: SweepFolder) -> ModelConfig:
    for record in sweep.index.runs:
        config = read_config(sweep.storage.run(record.key))
        if config is not None:
            return config.model
    raise UserError(f"no run of the sweep {sweep.index.sweep} has started: launch it first")
