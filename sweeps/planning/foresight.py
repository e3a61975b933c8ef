"""What a fit of a sweep's runs could tell of the optimum at a target, before any of them is made: from the design alone.

The law is the sweep's own fit once enough of its runs are finished, a published one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis import fit, load_runs
from analysis.fitting.information import Foreseen, predicted_optimum_interval
from analysis.fitting.run_noise import DesignRuns, RunNoise
from analysis.laws.published import BESIROGLU
from llama.accounting import count_parameters, training_flops_per_token
from llama.errors import UserError
from llama.sweep_index import SWEEP_INDEX
from sweeps.designs.design import Design
from sweeps.planning.records import Foresight, PlanWarning
from sweeps.storage import Storage

#: Where no target is named: so many times the longest run's training FLOPs.
TARGET_MULTIPLE = 10.0

#: Sd of log loss between seeds, and of the law's misfit, before a sweep has runs of its own: between the 0.07 % of large runs
#: and the 1 to 2 % of the smallest.
ASSUMED_SD = 0.005

#: Share of the seeds' variance that branches of a trunk have in common (docs/studies/trunk-and-branch.md).
TRUNK_SHARE = 0.8

#: Finished runs from which the sweep's own fit is better than a published one: twice its five parameters.
ENOUGH_RUNS = 10


@dataclass(frozen=True, kw_only=True)
class KnownLaw:
    """Where the law is taken to be, and the noise about it."""

    params: Mapping[str, float]
    sd: float
    source: str


def foresee(
    design: Design, known: KnownLaw, *, target_flops: float | None = None, target_loss: float | None = None
) -> Foresight | PlanWarning:
    """The optimum at the target with the interval that a fit of the design's runs would have; a warning where it can't be told.

    Raises:
        UserError: a target that is none, or two.
    """
    runs, count = _runs(design)
    if count == 0:
        return PlanWarning(code="foresight", message="every run is held out: there is nothing to fit")
    noise = RunNoise(sd=known.sd, misfit_sd=known.sd, trunk_share=TRUNK_SHARE)
    try:
        seen = predicted_optimum_interval(known.params, runs, noise=noise, flops=target_flops, target_loss=target_loss)
    except UserError as error:
        return PlanWarning(code="foresight", message=f"what a fit could tell is not known: {error}")
    return Foresight(
        target_flops=target_flops,
        target_loss=target_loss,
        longest_run_flops=longest_run_flops(design),
        n_params=seen.n_params.value,
        n_params_ci95=_interval(seen.n_params),
        n_tokens=seen.n_tokens.value,
        n_tokens_ci95=_interval(seen.n_tokens),
        loss=seen.loss.value,
        loss_ci95=_interval(seen.loss),
        fitted_runs=count,
        unidentified=list(seen.information.unidentified),
        assumptions=f"if the law is {known.source}, and log losses scatter by {known.sd:.2%} between seeds and as much about "
        "the law; 95 % intervals",
    )


def default_target_flops(designs: Iterable[Design]) -> float:
    """The same for all designs that are compared."""
    return TARGET_MULTIPLE * max(longest_run_flops(design) for design in designs)


def longest_run_flops(design: Design) -> float:
    """Training FLOPs of the run that takes most."""
    return max(
        run.config.tokens * float(training_flops_per_token(run.config.model))
        for run in design.runs
        if run.config.tokens is not None
    )


def known_law(design: Design, storage: Storage) -> KnownLaw:
    """The law through the sweep's own finished runs; a published one while they are too few, or identify none."""
    return _own_law(design, storage) or KnownLaw(
        params=BESIROGLU,
        sd=ASSUMED_SD,
        source="Chinchilla's law as Besiroglu et al. 2024 refitted it (N counts all parameters, 6 N FLOPs a token)",
    )


def _runs(design: Design) -> tuple[DesignRuns, int]:
    """The runs that a fit would take, and how many: seeds of a cell as one run of less noise, which tells the same where all
    cells have as many. Of several learning rates one enters.
    """
    cells: Counter[tuple[str, int, int]] = Counter()
    seen = set()
    for run in design.runs:
        tokens, seed = run.config.tokens, run.config.seed
        if tokens is None or run.record.held_out or (run.size, tokens, seed) in seen:
            continue
        seen.add((run.size, tokens, seed))
        cells[run.size, count_parameters(run.config.model).n_params, tokens] += 1
    has_trunks = any(run.record.is_trunk for run in design.runs)
    runs = DesignRuns(
        n_params_n=np.array([n_params for _, n_params, _ in cells], dtype=float),
        n_tokens_n=np.array([tokens for *_, tokens in cells], dtype=float),
        trunk_n=np.array([size if has_trunks else "" for size, *_ in cells]),
        scale_n=np.array([count**-0.5 for count in cells.values()]),
        unique_tokens_n=np.full(len(cells), np.inf),
    )
    return runs, cells.total()


def _own_law(design: Design, storage: Storage) -> KnownLaw | None:
    folder = storage.sweep(design.spec.name)
    if not (folder / SWEEP_INDEX).exists():
        return None
    try:
        found = fit(load_runs(folder), bootstrap=0)
    except UserError:
        return None
    if found.n_runs < ENOUGH_RUNS:
        return None
    # The residuals' variance, half to the seeds and half to the misfit.
    sd = max(found.residual_sd, 1e-5) / 2**0.5
    return KnownLaw(params=found.params, sd=sd, source=f"the fit of the sweep's own {found.n_runs} finished runs")


def _interval(seen: Foreseen) -> tuple[float, float] | None:
    return (seen.ci95.lo, seen.ci95.hi) if np.isfinite(seen.sd) else None
