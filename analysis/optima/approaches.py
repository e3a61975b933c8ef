"""Hoffmann et al.'s three approaches on one table, side by side at one budget: envelope, isoFLOP bowls, surface.

Each reads the same runs and says where the optimum lies in its own way; where they part, the design or the law's form is in
doubt. Approaches 1 and 2 are power laws through optima that they read off the losses, approach 3 is the fitted law. All are
resampled alike. What an approach can't say is absent with its reason, so that two of three still stand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.counting import largest_flops
from analysis.decisions.costs import training_flops
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.fit import why_none
from analysis.optima.approach_readers import Seen, absent_approach, by_envelope, by_isoflop, by_surface
from analysis.results import Approaches, Excluded, Fit
from analysis.runs.table import COUNTING, RunTable
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
    law: str = "chinchilla",
    objective: str = "huber_log",
    delta: float = 1e-3,
    counting: str = "n_params",
    bootstrap: int = 1000,
    seed: int = 0,
    fit: Fit | None = None,
) -> Approaches:
    """The three approaches on the usable, not held-out runs.

    Args:
        table: from `load_runs`.
        flops: the budget at which they are compared; None takes ten times the largest fitted run's.
        law, objective, delta, counting, bootstrap, seed: as `analysis.fit` takes them; the law is approach 3's.
        fit: approach 3's law where it is fitted already.

    Raises:
        UserError: no run can be used, or an option has an impossible value.
    """
    seen = _prepare(table, flops, counting, bootstrap, seed)
    surface = _or_why(lambda: fit or _fit(table, law, objective, delta, seen))
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
    return Approaches(
        flops=seen.flops,
        largest_flops=largest_flops(seen.table, counting, seen.train_flops),
        counting=counting,
        flops_rule=seen.train_flops.rule,
        approaches=(first, second, third),
        envelope=envelope,
        isoflop=bowls,
        n_opt_spread=spread,
        excluded=(*seen.table.excluded, *seen.uncounted),
        warnings=tuple(warnings),
    )


def approach(
    table: RunTable,
    number: int,
    *,
    flops: float | None = None,
    law: str = "chinchilla",
    objective: str = "huber_log",
    delta: float = 1e-3,
    counting: str = "n_params",
    bootstrap: int = 1000,
    seed: int = 0,
) -> Approaches:
    """One of the three alone, in the same record: for `isoloss fit --approach`.

    Raises:
        UserError: as `approaches`; or this approach can't be had from these runs.
    """
    if number not in (1, 2, 3):
        raise UserError(f"approach is {number}; it must be 1 (envelope), 2 (isoFLOP) or 3 (surface)")
    seen = _prepare(table, flops, counting, bootstrap, seed)
    envelope = bowls = None
    if number == 1:
        one, envelope = by_envelope(seen, None)
    elif number == 2:
        one, bowls = by_isoflop(seen, None)
    else:
        one = by_surface(seen, _fit(table, law, objective, delta, seen))
    if "all" in one.absent:
        raise UserError(f"approach {number} can't be had from {table.source}: {one.absent['all']}")
    return Approaches(
        flops=seen.flops,
        largest_flops=largest_flops(seen.table, counting, seen.train_flops),
        counting=counting,
        flops_rule=seen.train_flops.rule,
        approaches=(one,),
        envelope=envelope,
        isoflop=bowls,
        n_opt_spread=None,
        excluded=(*seen.table.excluded, *seen.uncounted),
        warnings=seen.table.warnings,
    )


def _prepare(table: RunTable, flops: float | None, counting: str, bootstrap: int, seed: int) -> Seen:
    if counting not in COUNTING:
        raise UserError(f"no counting rule is called {counting!r}; there are {', '.join(COUNTING)}")
    if bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; the number of resamples must be 0 or more")
    table = table.at_the_best_rate()
    runs = table.fitted
    counted = runs[runs[counting].notna()]
    if not len(counted):
        raise UserError(f"{table.source} has no finished run with {counting}{why_none(table)}")
    train_flops = training_flops(table, counting=counting)
    if flops is None:
        flops = TARGET * largest_flops(table, counting, train_flops)
    if not (np.isfinite(flops) and flops > 0):
        raise UserError(f"the budget to compare at is {flops:g} FLOPs; it must be above 0 and finite")
    missing = runs[runs[counting].isna()]
    return Seen(
        table=table,
        runs=counted,
        counting=counting,
        train_flops=train_flops,
        flops=float(flops),
        bootstrap=bootstrap,
        seed=seed,
        uncounted=tuple(
            Excluded(row=None if pd.isna(row) else int(row), run_id=str(run_id), reason=f"missing: no {counting}")
            for row, run_id in zip(missing["row"], missing["run_id"], strict=True)
        ),
    )


def _fit(table: RunTable, law: str, objective: str, delta: float, seen: Seen) -> Fit:
    return fit_law(
        table,
        law=law,
        objective=objective,
        delta=delta,
        counting=seen.counting,
        bootstrap=seen.bootstrap,
        seed=seen.seed,
    )


def _or_why(work: Callable[[], Fit]) -> Fit | str:
    try:
        return work()
    except UserError as error:
        return str(error)
