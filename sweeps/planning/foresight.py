"""What a fit of a sweep's runs could tell of the optimum at a target, before any of them is made: from the design alone.

The law is the sweep's own fit once enough of its runs are finished, a published one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import fit, load_runs
from analysis.fitting.information import Foreseen, predicted_optimum_interval
from analysis.fitting.known_noise import noise_of, noise_within
from analysis.fitting.run_noise import DesignRuns, RunNoise
from analysis.laws.published import BESIROGLU
from llama.accounting import count_parameters, training_flops_per_token
from llama.errors import UserError
from llama.sweep_index import SWEEP_INDEX
from sweeps.designs.design import Design
from sweeps.planning.prepare import Prepared
from sweeps.planning.records import Foresight, Plan, PlanWarning
from sweeps.storage import Storage

#: Where no target is named: so many times the longest run's training FLOPs.
TARGET_MULTIPLE = 10.0

#: Sd of log loss about the law before a sweep has runs of its own, of seeds and misfit together: between the 0.07 % of large
#: runs and the 1 to 2 % of the smallest.
ASSUMED_SD = 0.007

#: Finished runs from which the sweep's own fit is better than a published one: twice its five parameters.
ENOUGH_RUNS = 10


@dataclass(frozen=True, kw_only=True)
class KnownLaw:
    """Where the law is taken to be, and the noise about it."""

    params: Mapping[str, float]
    noise: RunNoise
    noise_rule: str
    """Where the noise comes from, in words."""
    source: str


def foresee(
    design: Design, known: KnownLaw, *, target_flops: float | None = None, target_loss: float | None = None
) -> Foresight | PlanWarning:
    """The optimum at the target with the interval that a fit of the design's runs would have; a warning where it can't be told.

    Raises:
        UserError: a target that is none, or two.
    """
    runs = _runs(design)
    if runs is None:
        return PlanWarning(code="foresight", message="every run is held out: there is nothing to fit")
    try:
        seen = predicted_optimum_interval(
            known.params, runs, noise=known.noise, flops=target_flops, target_loss=target_loss
        )
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
        fitted_runs=len(runs),
        unidentified=list(seen.information.unidentified),
        assumptions=f"if the law is {known.source}; {known.noise_rule}; 95 % intervals",
    )


def foreseen_plans(
    found: Sequence[Prepared], *, target_flops: float | None = None, target_loss: float | None = None
) -> list[Plan]:
    """The plans with what a fit of each could tell, by one law and at one target: the first sweep's, so that they compare."""
    if target_flops is None and target_loss is None:
        target_flops = default_target_flops(prepared.design for prepared in found)
    law = known_law(found[0].design, found[0].storage)
    return [
        prepared.plan.with_foresight(foresee(prepared.design, law, target_flops=target_flops, target_loss=target_loss))
        for prepared in found
    ]


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
    found = _own_law(design, storage)
    if found is not None:
        return found
    noise, rule = noise_within(ASSUMED_SD, None, has_trunks=design.spec.has_trunks)
    return KnownLaw(
        params=BESIROGLU,
        noise=noise,
        noise_rule=f"as long as no run tells, {rule}",
        source="Chinchilla's law as Besiroglu et al. 2024 refitted it (N counts all parameters, 6 N FLOPs a token)",
    )


def _runs(design: Design) -> DesignRuns | None:
    """The runs that a fit would take; None where all are held out. Of several learning rates one enters."""
    found: dict[tuple[str, int, int], tuple[float, float, str]] = {}
    for run in design.runs:
        if run.record.is_trunk or run.record.held_out:
            continue
        seed = run.config.seed
        trunk = f"{run.size}-{seed}" if design.spec.has_trunks else ""
        found[run.size, run.tokens, seed] = count_parameters(run.config.model).n_params, run.tokens, trunk
    if not found:
        return None
    n_params, n_tokens, trunks = zip(*found.values(), strict=True)
    return DesignRuns(
        n_params_n=np.array(n_params, dtype=float),
        n_tokens_n=np.array(n_tokens, dtype=float),
        trunk_n=np.array(trunks),
        scale_n=np.ones(len(found)),
        unique_tokens_n=np.full(len(found), np.inf),
    )


def _own_law(design: Design, storage: Storage) -> KnownLaw | None:
    folder = storage.sweep(design.spec.name)
    if not (folder / SWEEP_INDEX).exists():
        return None
    try:
        table = load_runs(folder)
        found = fit(table, bootstrap=0)
    except UserError:
        return None
    if found.n_runs < ENOUGH_RUNS:
        return None
    noise, rule = noise_of(table, found)
    source = f"the fit of the sweep's own {found.n_runs} finished runs"
    return KnownLaw(params=found.params, noise=noise, noise_rule=rule, source=source)


def _interval(seen: Foreseen) -> tuple[float, float] | None:
    return (seen.ci95.lo, seen.ci95.hi) if np.isfinite(seen.sd) else None
