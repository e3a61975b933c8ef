"""Two recipes or corpora as a compute multiplier: how many times B's compute A needs for B's loss, each at its own optimum.

Under a law of `analysis.laws` the loss at the compute optimum is L*(C) = E + G C^-gamma exactly, so that the multiplier
m(C) = C_A / C with L*_A(C_A) = L*_B(C) is a closed form of both fits. A recipe that is worth a fixed factor of compute shifts
the curve: L*_B(C) = L*_A(m C) with one m, which ties E and gamma. Whether it does is asked of the runs, not assumed: a
multiplier that grows with compute is read off small runs too low, one that shrinks too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import numpy as np

from analysis.comparing.multiplier import OptimalLoss, growth, log_multiplier, optimal_loss, tied_multiplier
from analysis.comparing.paired_design import paired
from analysis.counting import run_flops
from analysis.decisions.costs import flops_rule, training_flops
from analysis.fitting.fit import check_options
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.options import FitOptions, complete
from analysis.intervals import band, interval
from analysis.laws import get_law
from analysis.results import Array, ComparedTable, Comparison, Estimate, Fit, Interval, TokenCost
from analysis.runs.table import RunTable
from llama.errors import UserError

#: Budgets of the curve where none are named, and those over which one constant multiplier is fitted.
GRID, TIED_GRID = 61, 24
#: The level at which a multiplier is said to change with compute.
LEVEL = 0.05
#: A covered range narrower than this factor of compute says nothing about growth.
NARROW = 1.1
#: Share of resamples without a multiplier from which it is said.
LOST = 0.05
#: ln of a loss in bits over the same in nats, and how near to it, and to each other, ratios of losses tell of it.
LOG_BITS, SAME_RATIO = float(-np.log(np.log(2))), 0.02


def compare(
    table_a: RunTable,
    table_b: RunTable,
    *,
    at_flops: Sequence[float] | None = None,
    at_loss: Sequence[float] | None = None,
    pair: bool = True,
    **fit_options: Unpack[FitOptions],
) -> Comparison:
    """What B's recipe or corpus is worth in compute, beside A's.

    Both tables are fitted by the same law and resampled together: run by run where their designs are the same (to a fifth of
    the runs, which are then left out), each by itself otherwise.

    Args:
        table_a, table_b: losses on the same validation text, by one tokenizer.
        at_flops: B's compute at which the multiplier is told; None takes the whole range of both tables.
        at_loss: losses at which it is told instead.
        pair: False resamples the two independently, with all their runs, whatever their designs.
        fit_options: as `analysis.fit` takes them, for both.

    Raises:
        UserError: the tables say that their losses can't be compared; one of them can't be fitted; an option is impossible.
    """
    if at_flops is not None and at_loss is not None:
        raise UserError("compare at given compute (--at-compute) or at given losses (--at-loss), not at both")
    asked = complete(fit_options)
    check_options(**asked)
    warnings = _comparable(table_a, table_b, asked["counting"])
    if get_law(asked["law"]).uses_unique_tokens:
        warnings.append("the multiplier is told for fresh tokens: nothing repeats")
    a, b, together, said = _fit_both(table_a, table_b, asked, pair)
    warnings += said
    log_c = np.log(_grid(at_flops, at_loss, [a.flops, b.flops], b.here))
    covered = _covered(a, b)
    mid, sampled = log_multiplier(a.here, b.here, log_c), None
    if a.drawn is not None and b.drawn is not None:
        # At a loss both sides' compute varies; at a compute B's loss and A's compute do.
        sampled = log_multiplier(a.drawn, b.drawn, log_c)
        if at_loss is not None:
            losses = np.array(sorted(at_loss, reverse=True), dtype=np.float64)
            with np.errstate(invalid="ignore"):
                sampled = a.drawn.log_flops(losses) - b.drawn.log_flops(losses)
    if covered is None:
        warnings.append(
            "no compute is covered by both: A's runs, brought to B's loss, lie outside B's; every number here is extrapolated"
        )
    if sampled is not None and float(np.isnan(sampled).mean()) > LOST:
        warnings.append(f"{np.isnan(sampled).mean():.0%} of the resamples have no optimum; intervals leave them out")
    grid = np.exp(log_c)
    inside = np.zeros(len(log_c), dtype=np.bool_)
    if covered is not None:
        inside = (grid >= covered.lo * (1 - 1e-9)) & (grid <= covered.hi * (1 + 1e-9))
    change = _change(a, b, log_c, covered)
    named = at_flops is not None or at_loss is not None
    headline, headline_flops = change.constant, None
    if named:
        g = int(np.flatnonzero(inside)[-1]) if inside.any() else len(grid) - 1
        headline = _estimate(float(_exp(mid)[g]), None if sampled is None else _exp(sampled)[:, g])
        headline_flops = float(grid[g])
    elif change.verdict != "constant":
        at = change.span[1:]
        headline = _estimate(
            float(_exp(log_multiplier(a.here, b.here, at))[0]),
            None if a.drawn is None or b.drawn is None else _exp(log_multiplier(a.drawn, b.drawn, at))[:, 0],
        )
        headline_flops = float(np.exp(at[0]))
    rules = [a.cost.rule, b.cost.rule]
    return Comparison(
        a=a.told(table_a.source),
        b=b.told(table_b.source),
        law=a.fit.law,
        objective=a.fit.objective,
        counting=a.fit.counting,
        flops_rule=rules[0] if rules[0] == rules[1] else f"A: {rules[0]}; B: {rules[1]}",
        flops_G=grid,
        named=named,
        loss=band(grid, b.here.at(log_c), None if b.drawn is None else b.drawn.at(log_c)),
        loss_a=band(grid, a.here.at(log_c), None if a.drawn is None else a.drawn.at(log_c)),
        multiplier=band(grid, _exp(mid), None if sampled is None else _exp(sampled)),
        inside_G=inside,
        covered=covered,
        constant=change.constant,
        constant_loss_error=change.misfit,
        slope=change.slope,
        p_constant=change.p_constant,
        verdict=change.verdict,
        headline=headline,
        headline_flops=headline_flops,
        paired=together,
        resampling=a.fit.resampling,
        warnings=(
            *warnings,
            *(f"A: {words}" for words in a.fit.warnings),
            *(f"B: {words}" for words in b.fit.warnings),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One table with its law, and the law's loss at the compute optimum."""

    fit: Fit
    cost: TokenCost
    flops: Interval
    here: OptimalLoss
    drawn: OptimalLoss | None

    def told(self, source: str) -> ComparedTable:
        drawn = self.drawn
        return ComparedTable(
            source=source,
            n_runs=self.fit.n_runs,
            flops=self.flops,
            limit=_estimate(float(self.here.limit_K[0]), None if drawn is None else drawn.limit_K[:, 0]),
            exponent=_estimate(float(self.here.exponent_K[0]), None if drawn is None else drawn.exponent_K[:, 0]),
            excluded=self.fit.excluded,
        )


def _fit_both(
    table_a: RunTable, table_b: RunTable, asked: FitOptions, pair: bool
) -> tuple[_Side, _Side, bool, list[str]]:
    """Both laws by one rule of compute, whether they were resampled together, and warnings."""
    counting, warnings = asked["counting"], []
    a, b = table_a.at_the_best_rate(), table_b.at_the_best_rate()
    costs = [training_flops(table, counting=counting) for table in (a, b)]
    if len({len(cost.n_params_G) > 0 for cost in costs}) > 1:
        without = table_a if not len(costs[0].n_params_G) else table_b
        warnings.append(f"compute is counted as 6 N D on both sides, since {without.source} has no FLOPs of its own")
        costs = [flops_rule(6.0, "6 N FLOPs a token: a named rule")] * 2
    same_design = paired(a, b, counting) if pair and asked["bootstrap"] else None
    if same_design is not None:
        a, b = same_design.a, same_design.b
        if same_design.left_out_a or same_design.left_out_b:
            name_a, name_b = call_them(table_a.source, table_b.source)
            warnings.append(
                f"both were cut to the {len(a.fitted)} runs of one design, to be resampled together: {name_a} leaves out "
                f"{same_design.left_out_a}, {name_b} {same_design.left_out_b}"
            )
    fit_a = _fit(a, "A", asked, 0)
    fit_b = _fit(b, "B", asked, 0 if same_design is not None else 1)
    # A run dropped on one side alone would set every later one against another's partner.
    together = (
        same_design is not None
        and fit_a.dropped == fit_b.dropped == ()
        and all(one.resampling is not None and one.resampling.method != "parametric" for one in (fit_a, fit_b))
    )
    if same_design is not None and not together:
        # One stream of random numbers for both would take them to be wrong alike.
        fit_b = _fit(b, "B", asked, 1)
    ranges = [_flops_range(table, counting, cost) for table, cost in zip((a, b), costs, strict=True)]
    reference = float(np.sqrt(ranges[1].lo * ranges[1].hi))
    side_a, side_b = (
        _side(name, one, cost, flops, reference)
        for name, one, cost, flops in zip("AB", (fit_a, fit_b), costs, ranges, strict=True)
    )
    return side_a, side_b, together, warnings


def _fit(table: RunTable, name: str, asked: FitOptions, stream: int) -> Fit:
    """`stream` tells random numbers apart: the same for both sides where they are resampled together."""
    options: FitOptions = {**asked, "seed": asked["seed"] + stream}
    try:
        return fit_law(table, **options)
    except UserError as error:
        raise UserError(f"{name} ({table.source}) can't be fitted: {error}") from None


def _side(name: str, fit: Fit, cost: TokenCost, flops: Interval, reference: float) -> _Side:
    here = optimal_loss(fit.law, get_law(fit.law).as_vector(fit.params), cost, reference)
    shape = np.concatenate([here.limit_K, here.log_amplitude_K, here.exponent_K])
    if not np.isfinite(shape).all() or here.exponent_K[0] <= 0:
        bounds = ", ".join(fit.convergence.bound_hits) or "an amplitude is 0"
        raise UserError(
            f"{name}'s law has no compute optimum ({bounds}): its runs don't show what size or data are worth"
        )
    drawn = None if fit.draws_KP is None else optimal_loss(fit.law, fit.draws_KP, cost, reference)
    return _Side(fit=fit, cost=cost, flops=flops, here=here, drawn=drawn)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """Whether one multiplier holds over a range of compute."""

    span: Array
    """The range's ends, in ln C."""
    constant: Estimate
    misfit: float
    slope: Estimate
    p_constant: float | None
    verdict: Literal["constant", "grows", "shrinks"]


def _change(a: _Side, b: _Side, log_c: Array, covered: Interval | None) -> _Change:
    """Over what both cover, or over the asked compute where they cover nothing."""
    span = np.array([log_c[0], log_c[-1]]) if covered is None else np.log([covered.lo, covered.hi])
    if span[1] - span[0] < np.log(NARROW):
        span = np.mean(span) + np.array([-0.5, 0.5]) * np.log(NARROW)
    tied_c = np.linspace(span[0], span[1], TIED_GRID)
    constant, misfit = tied_multiplier(a.here, b.here, tied_c)
    slope = float(growth(a.here, b.here, span))
    constant_K = slope_K = p_constant = None
    if a.drawn is not None and b.drawn is not None:
        constant_K = _exp(tied_multiplier(a.drawn, b.drawn, tied_c)[0])[..., 0]
        slope_K = growth(a.drawn, b.drawn, span)
        p_constant = _two_sided(slope_K)
    changes = p_constant is not None and p_constant < LEVEL and covered is not None
    return _Change(
        span=span,
        constant=_estimate(float(_exp(constant)[0]), constant_K),
        misfit=float(np.abs(np.expm1(misfit)).max()),
        slope=_estimate(slope, slope_K),
        p_constant=p_constant,
        verdict="constant" if not changes else "grows" if slope > 0 else "shrinks",
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


def _covered(a: _Side, b: _Side) -> Interval | None:
    """B's compute within B's runs and, brought to A's compute at equal loss, within A's."""
    from_a = [float(np.exp(b.here.log_flops(a.here.at(np.log([end]))))[0]) for end in (a.flops.lo, a.flops.hi)]
    lo, hi = max(b.flops.lo, from_a[0]), min(b.flops.hi, from_a[1])
    return Interval(lo=lo, hi=hi) if lo < hi else None


def _comparable(a: RunTable, b: RunTable, counting: str) -> list[str]:
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
    if not (said[0] and said[1]):
        _check_units(a, b, counting)
    same = bool(a.domains) and bool(b.domains)
    return [
        "the multiplier holds only if both losses are on the same validation text by one tokenizer: "
        + ("both tables name the same domains" if same else "nothing in the tables says so")
    ]


def _check_units(a: RunTable, b: RunTable, counting: str) -> None:
    """Refuse losses that are one another's in bits, cell by cell of one design."""
    design = paired(a.at_the_best_rate(), b.at_the_best_rate(), counting)
    if design is None:
        return
    log_ratio = np.log(design.b.fitted["loss"].to_numpy(dtype=np.float64) / design.a.fitted["loss"].to_numpy())
    low, middle, high = np.quantile(log_ratio, [0.25, 0.5, 0.75])
    if high - low < SAME_RATIO and abs(abs(middle) - LOG_BITS) < SAME_RATIO:
        bits, nats = (b, a) if middle > 0 else (a, b)
        raise UserError(
            f"losses of {bits.source} are {np.exp(abs(middle)):.3f} times those of {nats.source} in every cell of one design, "
            f"as bits are of nats (1/ln 2 = 1.443): bring both to nats, or give {bits.source} a column loss_unit that says bits"
        )


def call_them(a: str, b: str) -> tuple[str, str]:
    """What to call the two: by their sources, unless both are parts of one."""
    return (a, b) if a != b else ("A", "B")
