"""Hoffmann et al.'s three approaches on one table, side by side at one budget: envelope, isoFLOP bowls, surface.

Each reads the same runs and says where the optimum lies in its own way; where they part, the design or the law's form is in
doubt. Approaches 1 and 2 are power laws through optima that they read off the losses, approach 3 is the fitted law. All see
the same runs and weights and are resampled alike. What an approach can't say is absent with its reason, so that two of three
still stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Unpack

import numpy as np
import pandas as pd

from analysis.counting import largest_flops
from analysis.decisions.costs import training_flops
from analysis.fitting.fit import check_options, why_none
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.learning_rates import at_the_tuned_rates
from analysis.fitting.noise_model import noise_model, noise_weights
from analysis.fitting.objective import Objective
from analysis.fitting.options import FitOptions, complete
from analysis.fitting.outliers import as_excluded
from analysis.optima.approach_readers import Seen, absent_approach, by_envelope, by_isoflop, by_surface
from analysis.results import Approach, Approaches, Envelope, Excluded, Fit, Isoflop
from analysis.runs.table import RunTable
from analysis.words import flops as say_flops
from analysis.words import times
from llama.errors import UserError

#: The target budget over the largest fitted run's, where none is named.
TARGET = 10.0
#: Approaches whose optima lie further apart than this factor are said to disagree.
DISAGREE = 1.5


def approaches(
    table: RunTable,
    *,
    flops: float | None = None,
    fit: Fit | None = None,
    **fit_options: Unpack[FitOptions],
) -> Approaches:
    """The three approaches on the usable, not held-out runs.

    Args:
        table: from `load_runs`.
        flops: the budget at which they are compared; None takes ten times the largest fitted run's.
        fit: approach 3's law where it is fitted already, with these options.
        fit_options: as `analysis.fit` takes them. The law and its objective are approach 3's alone; runs that it drops, weights
            and resampling are those of all three.

    Raises:
        UserError: no run can be used, or an option has an impossible value.
    """
    asked = complete(fit_options)
    check_options(**asked)
    surface = fit or _or_why(lambda: fit_law(table, **asked))
    seen = _prepare(table, flops, asked, surface)
    known_sd = surface.residual_sd if isinstance(surface, Fit) else None
    first, envelope = by_envelope(seen, known_sd)
    second, bowls = by_isoflop(seen, known_sd)
    third = by_surface(seen, surface) if isinstance(surface, Fit) else absent_approach(3, seen, surface)
    found = [one.n_opt.value for one in (first, second, third) if one.n_opt is not None]
    spread = max(found) / min(found) if len(found) > 1 else None
    warnings = list(seen.table.warnings)
    if spread is not None and spread > DISAGREE:
        warnings.append(
            f"the approaches put N_opt at {say_flops(seen.flops)} apart by {times(spread)}: parabolas and envelopes are biased "
            "where bowls are wide or lopsided, the surface where its form is wrong; look at the bowls and the residuals"
        )
    return _together(seen, (first, second, third), envelope, bowls, spread, tuple(warnings))


def approach(
    table: RunTable, number: Literal[1, 2], *, flops: float | None = None, **fit_options: Unpack[FitOptions]
) -> Approaches:
    """Approach 1 (envelope) or 2 (isoFLOP bowls) alone, in the same record; the third is `analysis.fit`.

    Raises:
        UserError: as `approaches`; or this approach can't be had from these runs.
    """
    asked = complete(fit_options)
    check_options(**asked)
    # Which runs are outliers only a law says.
    unsampled: FitOptions = {**asked, "bootstrap": 0}
    surface = fit_law(table, **unsampled) if asked["drop_outliers"] else None
    seen = _prepare(table, flops, asked, surface)
    envelope: Envelope | None = None
    bowls: Isoflop | None = None
    if number == 1:
        one, envelope = by_envelope(seen, None)
    else:
        one, bowls = by_isoflop(seen, None)
    if "all" in one.absent:
        raise UserError(f"approach {number} can't be had from {table.source}: {one.absent['all']}")
    return _together(seen, (one,), envelope, bowls, None, seen.table.warnings)


def _together(
    seen: Seen,
    found: tuple[Approach, ...],
    envelope: Envelope | None,
    bowls: Isoflop | None,
    spread: float | None,
    warnings: tuple[str, ...],
) -> Approaches:
    return Approaches(
        flops=seen.flops,
        largest_flops=largest_flops(seen.table, seen.counting, seen.train_flops),
        counting=seen.counting,
        flops_rule=seen.train_flops.rule,
        approaches=found,
        envelope=envelope,
        isoflop=bowls,
        n_opt_spread=spread,
        excluded=(*seen.table.excluded, *seen.uncounted),
        warnings=warnings,
    )


def _prepare(table: RunTable, flops: float | None, asked: FitOptions, surface: Fit | str | None) -> Seen:
    """The runs as all three see them: at the tuned rates, less the surface's outliers, with the weights that were asked for."""
    counting = asked["counting"]
    table = table.at_the_best_rate()
    if asked["drop_off_rate"]:
        table = at_the_tuned_rates(table, counting)
    if isinstance(surface, Fit) and surface.dropped:
        table = _without(table, as_excluded(surface.dropped))
    counted = table.fitted.dropna(subset=[counting])
    if not len(counted):
        raise UserError(f"{table.source} has no finished run with {counting}{why_none(table)}")
    if asked["weights"] == "noise":
        table = _weighed_by_noise(table, counted, counting)
    train_flops = training_flops(table, counting=counting)
    if flops is None:
        flops = TARGET * largest_flops(table, counting, train_flops)
    if not (np.isfinite(flops) and flops > 0):
        raise UserError(f"the budget to compare at is {flops:g} FLOPs; it must be above 0 and finite")
    runs = table.fitted
    missing = runs[runs[counting].isna()]
    return Seen(
        table=table,
        runs=runs[runs[counting].notna()],
        counting=counting,
        train_flops=train_flops,
        flops=float(flops),
        bootstrap=asked["bootstrap"],
        resampling=asked["resampling"],
        seed=asked["seed"],
        uncounted=tuple(
            Excluded(row=None if pd.isna(row) else int(row), run_id=str(run_id), reason=f"missing: no {counting}")
            for row, run_id in zip(missing["row"], missing["run_id"], strict=True)
        ),
    )


def _weighed_by_noise(table: RunTable, runs: pd.DataFrame, counting: str) -> RunTable:
    """Approaches 1 and 2 are least squares of log loss, so a weight is an inverse variance."""
    model = noise_model(runs, counting, table.source)
    weights = noise_weights(model, runs[counting].to_numpy(dtype=np.float64), Objective(name="lsq_log"))
    frame = table.frame.copy()
    frame["weight"] = pd.Series(weights, index=runs.index).reindex(frame.index).fillna(frame["weight"])
    return replace(table, frame=frame)


def _without(table: RunTable, dropped: tuple[Excluded, ...]) -> RunTable:
    reasons = {out.run_id: out.reason for out in dropped}
    excluded = table.frame["run_id"].map(reasons).fillna(table.frame["excluded"])
    return replace(table, frame=table.frame.assign(excluded=excluded))


def _or_why(work: Callable[[], Fit]) -> Fit | str:
    try:
        return work()
    except UserError as error:
        return str(error)
