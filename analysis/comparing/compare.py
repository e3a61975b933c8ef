"""Two recipes or corpora as a compute multiplier: how many times B's compute A needs for B's loss, each at its own optimum.

Under a law of `analysis.laws` the loss at the compute optimum is L*(C) = E + G C^-gamma exactly, so that the multiplier
m(C) = C_A / C with L*_A(C_A) = L*_B(C) is a closed form of both fits. A recipe that is worth a fixed factor of compute shifts
the curve: L*_B(C) = L*_A(m C) with one m, which ties E and gamma. Whether it does is asked of the runs, not assumed: a
multiplier that grows with compute is read off small runs too low, one that shrinks too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from analysis.comparing.multiplier import OptimalLoss, growth, log_multiplier, optimal_loss, tied_multiplier
from analysis.comparing.paired_design import paired
from analysis.counting import run_flops
from analysis.decisions.costs import flops_rule, training_flops
from analysis.fitting.fit import fit as fit_law
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.results import Array, Band, ComparedTable, Comparison, Estimate, Fit, Interval, TokenCost
from analysis.runs.table import RunTable
from analysis.values_json import estimate_json, finite, interval_json
from analysis.words import flops, times
from llama.errors import UserError

#: Budgets of the curve where none are named, and those over which one constant multiplier is fitted.
GRID, TIED_GRID = 61, 24
#: The level at which a multiplier is said to change with compute.
LEVEL = 0.05
#: A covered range narrower than this factor of compute says nothing about growth.
NARROW = 1.1
#: Share of resamples without a multiplier from which it is said.
LOST = 0.05


def compare(
    table_a: RunTable,
    table_b: RunTable,
    *,
    at_flops: Sequence[float] | None = None,
    at_loss: Sequence[float] | None = None,
    law: str = "chinchilla",
    objective: str = "huber_log",
    delta: float = 1e-3,
    counting: str = "n_params",
    weights: str = "column",
    drop_outliers: bool = False,
    bootstrap: int = 1000,
    resampling: str = "auto",
    seed: int = 0,
    pair: bool = True,
) -> Comparison:
    """What B's recipe or corpus is worth in compute, beside A's.

    Both tables are fitted by the same law and resampled together: run by run where their designs are the same (to a fifth of
    the runs, which are then left out), each by itself otherwise.

    Args:
        table_a, table_b: losses on the same validation text, by one tokenizer.
        at_flops: B's compute at which the multiplier is told; None takes the whole range of both tables.
        at_loss: losses at which it is told instead.
        law, objective, delta, counting, weights, drop_outliers, bootstrap, resampling, seed: as `analysis.fit` takes
            them.
        pair: False resamples the two independently, with all their runs, whatever their designs.

    Raises:
        UserError: the tables say that their losses can't be compared; one of them can't be fitted; an option is impossible.
    """
    if at_flops is not None and at_loss is not None:
        raise UserError("compare at given compute (at_flops) or at given losses (at_loss), not at both")
    warnings = _comparable(table_a, table_b)
    if get_law(law).uses_unique_tokens:
        warnings.append("the multiplier is told for fresh tokens: nothing repeats")
    a, b = table_a.at_the_best_rate(), table_b.at_the_best_rate()
    costs = [training_flops(table, counting=counting) for table in (a, b)]
    if len({len(cost.n_params_G) > 0 for cost in costs}) > 1:
        without = table_a if not len(costs[0].n_params_G) else table_b
        warnings.append(f"compute is counted as 6 N D on both sides, since {without.source} has no FLOPs of its own")
        costs = [flops_rule(6.0, "6 N FLOPs a token: a named rule")] * 2
    name_a, name_b = _names(table_a.source, table_b.source)
    same_design = paired(a, b, counting) if pair and bootstrap else None
    if same_design is not None:
        a, b = same_design.a, same_design.b
        if same_design.left_out_a or same_design.left_out_b:
            warnings.append(
                f"both were cut to the {len(a.fitted)} runs of one design, to be resampled together: {name_a} leaves out "
                f"{same_design.left_out_a}, {name_b} {same_design.left_out_b}"
            )

    def fitted(table: RunTable, name: str, number: int) -> Fit:
        try:
            return fit_law(
                table,
                law=law,
                objective=objective,
                delta=delta,
                counting=counting,
                weights=weights,
                drop_outliers=drop_outliers,
                bootstrap=bootstrap,
                resampling=resampling,
                seed=seed + number,
            )
        except UserError as error:
            raise UserError(f"{name} ({table.source}) can't be fitted: {error}") from None

    fit_a = fitted(a, "A", 0)
    fit_b = fitted(b, "B", 0 if same_design is not None else 1)
    # A run dropped on one side alone would set every later one against another's partner.
    together = (
        same_design is not None
        and fit_a.dropped == fit_b.dropped == ()
        and all(one.resampling is not None and one.resampling.method != "parametric" for one in (fit_a, fit_b))
    )
    if same_design is not None and not together and bootstrap:
        # One stream of random numbers for both would take them to be wrong alike.
        fit_b = fitted(b, "B", 1)
    fits, tables = (fit_a, fit_b), (a, b)
    ranges = [_flops_range(table, counting, cost) for table, cost in zip(tables, costs, strict=True)]
    reference = float(np.sqrt(ranges[1].lo * ranges[1].hi))
    here_a, here_b = (
        optimal_loss(one.law, get_law(one.law).as_vector(one.params), cost, reference)
        for one, cost in zip(fits, costs, strict=True)
    )
    for name, one, found in (("A", here_a, fit_a), ("B", here_b, fit_b)):
        shape = np.concatenate([one.limit_K, one.log_amplitude_K, one.exponent_K])
        if not np.isfinite(shape).all() or one.exponent_K[0] <= 0:
            bounds = ", ".join(found.convergence.bound_hits) or "an amplitude is 0"
            raise UserError(
                f"{name}'s law has no compute optimum ({bounds}): its runs don't show what size or data are worth"
            )
    drawn: tuple[OptimalLoss, OptimalLoss] | None = None
    if fit_a.draws_KP is not None and fit_b.draws_KP is not None:
        drawn = (
            optimal_loss(fit_a.law, fit_a.draws_KP, costs[0], reference),
            optimal_loss(fit_b.law, fit_b.draws_KP, costs[1], reference),
        )
    log_c = np.log(_grid(at_flops, at_loss, ranges, here_b))
    covered = _covered(ranges, here_a, here_b)
    mid = log_multiplier(here_a, here_b, log_c)
    sampled = None if drawn is None else log_multiplier(*drawn, log_c)
    span = np.array([log_c[0], log_c[-1]]) if covered is None else np.log([covered.lo, covered.hi])
    if covered is None:
        warnings.append(
            "no compute is covered by both: A's runs, brought to B's loss, lie outside B's; every number here is extrapolated"
        )
    if span[1] - span[0] < np.log(NARROW):
        span = np.mean(span) + np.array([-0.5, 0.5]) * np.log(NARROW)
    tied_c = np.linspace(span[0], span[1], TIED_GRID)
    constant, misfit = tied_multiplier(here_a, here_b, tied_c)
    slope = growth(here_a, here_b, span)
    constant_K = None if drawn is None else _exp(tied_multiplier(*drawn, tied_c)[0])[..., 0]
    slope_K = None if drawn is None else growth(*drawn, span)
    p_constant = None if slope_K is None else _two_sided(slope_K)
    grows = p_constant is not None and p_constant < LEVEL and covered is not None
    verdict: Literal["constant", "grows", "shrinks"] = (
        "constant" if not grows else "grows" if float(slope) > 0 else "shrinks"
    )
    constant_told = _estimate(float(_exp(constant)[0]), constant_K)
    top = np.array([span[1]])
    headline, headline_flops = constant_told, None
    if verdict != "constant":
        headline = _estimate(
            float(_exp(log_multiplier(here_a, here_b, top))[0]),
            None if drawn is None else _exp(log_multiplier(*drawn, top))[:, 0],
        )
        headline_flops = float(np.exp(top[0]))
    if sampled is not None and float(np.isnan(sampled).mean()) > LOST:
        warnings.append(f"{np.isnan(sampled).mean():.0%} of the resamples have no optimum; intervals leave them out")
    inside = np.zeros(len(log_c), dtype=np.bool_)
    if covered is not None:
        inside = (np.exp(log_c) >= covered.lo * (1 - 1e-9)) & (np.exp(log_c) <= covered.hi * (1 + 1e-9))
    grid = np.exp(log_c)
    return Comparison(
        a=_side(table_a, fits[0], ranges[0], here_a, None if drawn is None else drawn[0]),
        b=_side(table_b, fits[1], ranges[1], here_b, None if drawn is None else drawn[1]),
        law=fit_a.law,
        objective=fit_a.objective,
        counting=counting,
        flops_rule=costs[0].rule if costs[0].rule == costs[1].rule else f"A: {costs[0].rule}; B: {costs[1].rule}",
        flops_G=grid,
        loss=_band(grid, here_b.at(log_c), None if drawn is None else drawn[1].at(log_c)),
        loss_a=_band(grid, here_a.at(log_c), None if drawn is None else drawn[0].at(log_c)),
        multiplier=_band(grid, _exp(mid), None if sampled is None else _exp(sampled)),
        inside_G=inside,
        covered=covered,
        constant=constant_told,
        constant_loss_error=float(np.abs(np.expm1(misfit)).max()),
        slope=_estimate(float(slope), slope_K),
        p_constant=p_constant,
        verdict=verdict,
        headline=headline,
        headline_flops=headline_flops,
        paired=together,
        resampling=fit_a.resampling,
        warnings=(
            *warnings,
            *(f"A: {words}" for words in fit_a.warnings),
            *(f"B: {words}" for words in fit_b.warnings),
        ),
    )


def _exp(log: Array) -> Array:
    """Past the largest double it is infinite, which a multiplier may be."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(log))


def _two_sided(slope_K: Array) -> float | None:
    known = slope_K[~np.isnan(slope_K)]
    if not len(known):
        return None
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def _estimate(value: float, draws_K: Array | None) -> Estimate:
    return Estimate(value=value, ci95=None if draws_K is None else interval(draws_K))


def _band(x_G: Array, mid_G: Array, draws_KG: Array | None) -> Band:
    if draws_KG is None:
        nothing = np.full(len(x_G), np.nan)
        return Band(x_G=x_G, mid_G=np.broadcast_to(mid_G, x_G.shape), lo_G=nothing, hi_G=nothing)
    ends = [interval(draws_KG[:, g]) for g in range(len(x_G))]
    return Band(
        x_G=x_G,
        mid_G=np.broadcast_to(mid_G, x_G.shape),
        lo_G=np.array([end.lo for end in ends]),
        hi_G=np.array([end.hi for end in ends]),
    )


def _side(table: RunTable, fit: Fit, flops: Interval, here: OptimalLoss, drawn: OptimalLoss | None) -> ComparedTable:
    return ComparedTable(
        source=table.source,
        n_runs=fit.n_runs,
        flops=flops,
        limit=_estimate(float(here.limit_K[0]), None if drawn is None else drawn.limit_K[:, 0]),
        exponent=_estimate(float(here.exponent_K[0]), None if drawn is None else drawn.exponent_K[:, 0]),
    )


def _flops_range(table: RunTable, counting: str, cost: TokenCost) -> Interval:
    runs = table.fitted
    flops = run_flops(runs[runs[counting].notna()], counting, cost)
    return Interval(lo=float(flops.min()), hi=float(flops.max()))


def _grid(
    at_flops: Sequence[float] | None, at_loss: Sequence[float] | None, ranges: list[Interval], b: OptimalLoss
) -> Array:
    if at_loss is not None:
        wanted = np.array(sorted(at_loss, reverse=True), dtype=np.float64)
        found = np.exp(b.log_flops(wanted))
        bad = ~np.isfinite(found) | ~(wanted > 0)
        if not len(wanted) or bad.any():
            what = (
                f"B never reaches a loss of {wanted[bad][0]:g}: its limit is {float(b.limit_K[0]):.4g}"
                if len(wanted)
                else ("at_loss names no loss")
            )
            raise UserError(what)
        return found
    if at_flops is not None:
        chosen = np.array(sorted(at_flops), dtype=np.float64)
        if not len(chosen) or not (np.isfinite(chosen) & (chosen > 0)).all():
            raise UserError(f"at_flops is {list(at_flops)}; it must be budgets above 0 FLOPs")
        return chosen
    return np.geomspace(min(one.lo for one in ranges), max(one.hi for one in ranges), GRID)


def _covered(ranges: list[Interval], a: OptimalLoss, b: OptimalLoss) -> Interval | None:
    """B's compute within B's runs and, brought to A's compute at equal loss, within A's."""
    from_a = [float(np.exp(b.log_flops(a.at(np.log([end]))))[0]) for end in (ranges[0].lo, ranges[0].hi)]
    lo, hi = max(ranges[1].lo, from_a[0]), min(ranges[1].hi, from_a[1])
    return Interval(lo=lo, hi=hi) if lo < hi else None


def _comparable(a: RunTable, b: RunTable) -> list[str]:
    """Refuse losses that the tables themselves tell apart; warn of what they leave unsaid.

    Raises:
        UserError: other units, or other validation text.
    """
    said = [
        {str(unit) for unit in table.usable["loss_unit"].unique()} - {""} if "loss_unit" in table.frame else set()
        for table in (a, b)
    ]
    if said[0] and said[1] and said[0] != said[1]:
        raise UserError(
            f"losses of {a.source} are in {', '.join(sorted(said[0]))}, those of {b.source} in {', '.join(sorted(said[1]))}; "
            "bring both to one unit"
        )
    if a.domains and b.domains and set(a.domains) != set(b.domains):
        raise UserError(
            f"{a.source} was validated on {', '.join(a.domains)}, {b.source} on {', '.join(b.domains)}: a loss on other text "
            "says nothing about the recipe. Evaluate both on one validation set."
        )
    same = bool(a.domains) and bool(b.domains)
    return [
        "the multiplier holds only if both losses are on the same validation text by one tokenizer: "
        + ("both tables name the same domains" if same else "nothing in the tables says so")
    ]


def compare_json(comparison: Comparison) -> dict[str, Any]:
    """The JSON document of `isoloss compare A B --json`; what is not finite is null."""
    found = comparison

    def side(one: ComparedTable) -> dict[str, Any]:
        return {
            "source": one.source,
            "n_runs": one.n_runs,
            "flops": interval_json(one.flops),
            "limit": estimate_json(one.limit),
            "exponent": estimate_json(one.exponent),
        }

    return {
        "a": side(found.a),
        "b": side(found.b),
        "law": found.law,
        "objective": found.objective,
        "counting": found.counting,
        "flops_rule": found.flops_rule,
        "multiplier": estimate_json(found.headline),
        "at_flops": finite(found.headline_flops),
        "verdict": found.verdict,
        "constant": {
            "multiplier": estimate_json(found.constant),
            "max_loss_error": finite(found.constant_loss_error),
            "slope": estimate_json(found.slope),
            "p": finite(found.p_constant),
        },
        "covered_flops": interval_json(found.covered),
        "curve": [
            {
                "flops": finite(float(found.flops_G[g])),
                "loss": finite(float(found.loss.mid_G[g])),
                "loss_a": finite(float(found.loss_a.mid_G[g])),
                "multiplier": finite(float(found.multiplier.mid_G[g])),
                "ci95": None
                if found.resampling is None
                else [finite(float(found.multiplier.lo_G[g])), finite(float(found.multiplier.hi_G[g]))],
                "inside": bool(found.inside_G[g]),
            }
            for g in range(len(found.flops_G))
        ],
        "paired": found.paired,
        "resampling": None if found.resampling is None else asdict(found.resampling),
        "warnings": list(found.warnings),
    }


def describe_comparison(comparison: Comparison) -> tuple[str, ...]:
    """The comparison in sentences, the one number first."""
    found = comparison
    m, ci95 = found.headline.value, found.headline.ci95
    a, b = _names(found.a.source, found.b.source)
    known = "" if ci95 is None else f" (95 % interval {_times(ci95.lo)} to {_times(ci95.hi)})"
    where = (
        f"from {flops(found.covered.lo)} to {flops(found.covered.hi)}"
        if found.headline_flops is None and found.covered is not None
        else f"at {flops(found.headline_flops)}"
        if found.headline_flops is not None
        else "outside what both cover"
    )
    clear = ci95 is not None and 1.0 not in ci95
    better = (
        "which of the two is better these runs can't tell"
        if ci95 is not None and not clear
        else f"{b} is the better"
        if m > 1
        else f"{a} is the better"
    )
    needs = (
        f"{a} needs {times(m)} the compute of {b} for the same loss"
        if np.isfinite(m)
        else f"{a} never reaches {b}'s loss"
    )
    said = [f"{needs}{known}, {where}: {better}."]
    if found.p_constant is None:
        said.append("Nothing was resampled, so neither an interval nor a test of a changing multiplier is told.")
    elif found.verdict == "constant":
        said.append(
            f"One multiplier fits the whole range to within {found.constant_loss_error:.2%} of loss; that it changes with "
            f"compute can't be told from these runs (p = {found.p_constant:.2g})."
        )
    else:
        said.append(
            f"The multiplier {found.verdict} with compute"
            + (f", as C^{found.slope.value:.2g}" if np.isfinite(found.slope.value) else " past every bound")
            + f" (p = {found.p_constant:.2g}), so it holds at that compute alone."
        )
    said.append(
        "Both ran one design and were resampled run by run."
        if found.paired
        else "The two were resampled independently of each other."
    )
    return (*said, *found.warnings)


def _names(a: str, b: str) -> tuple[str, str]:
    """What to call the two: by their sources, unless both are parts of one."""
    return (a, b) if a != b else ("A", "B")


def _times(value: float) -> str:
    return times(value) if np.isfinite(value) else "any number of times"
