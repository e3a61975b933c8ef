"""Runs that a sweep could make next: shapes of its ladder and the widths beside them, or its own runs that aren't finished."""

from __future__ import annotations

from itertools import chain, count
from math import inf
from typing import TYPE_CHECKING

from llama.accounting import count_parameters, training_flops_per_token
from llama.errors import UserError
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
    """The ladder's shapes, and a width more at either end where it is a ladder of widths; none that `held_out` keeps from fits.

    Raises:
        UserError: no run of the sweep has started, so that its vocabulary is unknown, or all sizes are held out.
    """
    from analysis.next.candidates import Size

    spec = load_sweep(sweep.folder / SWEEP_YAML)
    ladder, held_out = spec.ladder, spec.held_out
    records = {record.key: record for record in sweep.index.runs}
    branches = sweep.index.branches_by_trunk()
    read = {key: read_config(sweep.storage.run(key)) for key in records}
    configs = {key: config for key, config in read.items() if config is not None}
    if not configs:
        raise UserError(f"no run of the sweep {sweep.index.sweep} has started: launch it first")
    vocab_size = next(iter(configs.values())).model.vocab_size
    models = ladder.models(vocab_size)
    needs = {}
    for width in _widths_beside(sorted(ladder.widths or [])):
        models[f"w{width}"] = model_for_width(width, vocab_size=vocab_size, context_length=ladder.context_length)
        needs[f"w{width}"] = f"ladder.widths: add {width}"
    counts = {label: count_parameters(model) for label, model in models.items()}
    if held_out.largest_size:
        # What is added above the ladder would be its largest, and held out in its turn.
        most = max(found.n_params for label, found in counts.items() if label not in needs)
        models = {label: model for label, model in models.items() if counts[label].n_params < most}
    if not models:
        raise UserError(
            f"the ladder of {sweep.index.sweep} has one size, and held_out.largest_size keeps it from fits: add one"
        )
    sizes = []
    for label, model in models.items():
        runs = {key: config for key, config in configs.items() if config.model == model}
        trunks = (
            _trunk(sweep.storage, key, config.seed, branches.get(key, []))
            for key, config in runs.items()
            if records[key].is_trunk
        )
        used = {config.seed for config in runs.values()}
        unused = (seed for seed in chain(spec.seeds.base, count(max(used, default=0) + 1)) if seed not in used)
        sizes.append(
            Size(
                label,
                float(getattr(counts[label], counting)),
                training_flops_per_token(model),
                tuple(trunks),
                first_seed=spec.seeds.base[0],
                new_seed=next(unused),
                most_tokens=counts[label].n_params * (held_out.tokens_per_parameter_above or inf),
                needs=needs.get(label, ""),
            )
        )
    return sizes


def missing_runs(design: Design, storage: Storage, fit: Fit) -> Candidates:
    """The design's own runs that are not finished, each at what it would cost from scratch, a standing trunk or not.

    Raises:
        UserError: all that fits may see are finished.
    """
    import numpy as np

    from analysis.next.candidates import of_arrays

    runs = [
        run
        for run in design.runs
        if not (run.record.is_trunk or run.record.held_out) and read_done(storage.run(run.record.key)) is None
    ]
    if not runs:
        raise UserError(
            f"every run of the sweep {design.spec.name} that isn't held out is finished: leave out --candidates missing"
        )
    tokens = np.array([run.tokens for run in runs], dtype=np.float64)
    return of_arrays(
        np.array([getattr(count_parameters(run.config.model), fit.counting) for run in runs], dtype=np.float64),
        tokens,
        tokens * np.array([training_flops_per_token(run.config.model) for run in runs]),
        trunks=[run.record.trunk or run.record.key for run in runs],
        names=tuple(run.record.name for run in runs),
        sizes=tuple(run.size for run in runs),
        seeds=tuple(run.config.seed for run in runs),
    )


def _trunk(storage: Storage, key: str, seed: int, branches: Sequence[SweepRun]) -> Trunk:
    """The trunk with its checkpoints, where its branches tell when they fork."""
    from analysis.next.candidates import Trunk

    folder = storage.run(key)
    shares = [run.fork_tokens / run.tokens for run in branches if run.fork_tokens and run.tokens]
    if not shares:
        return Trunk(key, seed=seed)
    marks = [read_checkpoint_mark(folder, step) for step in complete_steps(folder)]
    standing = tuple(float(mark.tokens) for mark in marks if mark is not None)
    return Trunk(key, standing, max(shares), seed)


def _widths_beside(widths: list[int]) -> list[int]:
    """One below the least and one above the largest, at the ladder's own steps."""
    if len(widths) < 2:
        return []
    below = round(widths[0] ** 2 / widths[1] / WIDTH_STEP) * WIDTH_STEP
    above = round(widths[-1] ** 2 / widths[-2] / WIDTH_STEP) * WIDTH_STEP
    return [width for width in (below, above) if width > 0 and width not in widths]
