"""A fit in words: the lines that `isoloss fit` prints, and the sentences that the study's answer takes from it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from analysis.fitting.outliers import off_in_words
from analysis.laws import get_law
from analysis.results import Excluded, Extrapolation, Fit, ResidualStructure
from analysis.results.checks import AXIS_LABELS as AXIS_LABELS
from analysis.words import brackets, count, number

#: More left-out runs than this are told by reason instead of one by one.
MOST_LISTED = 12
#: Distances in compute that extrapolation errors are told within.
DISTANCES = (10.0, 100.0, np.inf)


def describe_fit(
    fit: Fit, *, structure: ResidualStructure | None = None, extrapolation: Extrapolation | None = None
) -> str:
    """A fit as lines: law, exponents, held-out error, evidence, what it was asked and what was left out."""
    lines = [
        *_no_result(fit),
        law_in_words(fit),
        f"Compute-optimal: {_exponents(fit)}, when compute goes as N D.",
        held_out_in_words(fit),
        _evidence(fit),
    ]
    if fit.noise_model is not None:
        lines.append(_noise(fit))
    if structure is not None:
        lines.append(structure_in_words(structure))
    if extrapolation is not None:
        lines.append(extrapolation_in_words(extrapolation))
    dropped = {run.run_id for run in fit.dropped}
    lines += [f"dropped: {run.name}: {off_in_words(run)}" for run in fit.dropped]
    lines += left_out_in_words([out for out in fit.excluded if out.run_id not in dropped])
    lines += [f"warning: {warning}" for warning in fit.warnings]
    return "\n".join(lines)


def _no_result(fit: Fit) -> list[str]:
    """Said first: a law on its bounds says what was assumed, not what was measured."""
    if not fit.convergence.bound_hits:
        return []
    return [
        f"The fit ended on a bound ({', '.join(fit.convergence.bound_hits)}), which these runs don't determine: take what "
        "follows as no result. Check the columns, or vary N and D more widely."
    ]


def law_in_words(fit: Fit) -> str:
    def with_interval(name: str, value: str) -> str:
        return value + brackets(None if fit.ci95 is None else fit.ci95.get(name), number)

    shown = {name: with_interval(name, number(value)) for name, value in fit.params.items()}
    form = f"{get_law(fit.law).form} with {', '.join(f'{name} {value}' for name, value in shown.items())}"
    how = "no intervals were asked for" if fit.resampling is None else f"intervals are 95 %. {fit.resampling.reason}"
    return (
        f"The {fit.law} law through {fit.n_runs} runs of {fit.n_sizes} sizes ({fit.objective}, N is {fit.counting}): {form}; "
        f"{how}"
    )


def held_out_in_words(fit: Fit) -> str:
    if fit.held_out is None:
        return "No run was held out, so how well the law predicts new runs is untested here."
    sizes = sorted({point.n_params for point in fit.points if point.held_out})
    runs = "run" if fit.held_out.n == 1 else f"{fit.held_out.n} runs"
    named = ", ".join(count(size) for size in sizes[:4])
    return (
        f"It predicts the held-out {runs} ({named} parameters) within {fit.held_out.max_abs_rel_error:.1%} "
        f"(mean {fit.held_out.mean_abs_rel_error:.1%})."
    )


def structure_in_words(structure: ResidualStructure) -> str:
    """What the residuals still go with, or that they go with nothing."""
    found = [axis for axis in structure.axes if axis.structured]
    if found:
        said = "; ".join(f"with {AXIS_LABELS[axis.axis]} (p {axis.p_holm:.2g}): {axis.shape}" for axis in found)
        return f"The residuals still go {said}. The law's form or the recipe is off there."
    tested = [axis for axis in structure.axes if axis.p_holm is not None]
    if not tested:
        return "Whether the residuals have structure can't be tested on so few runs."
    said = ", ".join(f"{AXIS_LABELS[axis.axis]} {axis.p_holm:.2g}" for axis in tested)
    return f"The residuals show no structure along {_and([AXIS_LABELS[axis.axis] for axis in tested])} (p: {said})."


def extrapolation_in_words(extrapolation: Extrapolation) -> str:
    """How far off laws of the smaller runs were, by distance, and what that means ahead."""
    parts, low = [], 1.0
    for high in DISTANCES:
        errors = [point.log_error for point in extrapolation.forecasts if low < point.distance <= high]
        if errors:
            where = f"up to {number(high)}x" if np.isfinite(high) else f"past {number(low)}x"
            parts.append(f"{np.sqrt(np.mean(np.square(errors))):.2%} {where} the compute")
        low = high
    fitted = sum(window.skipped is None for window in extrapolation.windows)
    by_ratio = extrapolation.ratio
    outside = (
        "No window of ratios D/N can be fitted, so nothing is known of the error outside the fitted ones."
        if by_ratio is None
        else f"At a D/N 4x outside the fitted ones, and no more compute, it is {extrapolation.log_error_sd(1, 4):.2%} "
        f"(tried up to {number(by_ratio.max_distance)}x)."
    )
    return (
        f"Extrapolation, by {fitted} law{'' if fitted == 1 else 's'} of the smaller runs predicting the larger: off by "
        f"{', '.join(parts)} (rms). Ahead, a forecast at 10x the largest fitted N D has an error's sd of "
        f"{extrapolation.log_error_sd(10):.2%}, at 100x {extrapolation.log_error_sd(100):.2%}. {outside}"
    )


def _exponents(fit: Fit) -> str:
    return " and ".join(
        f"{quantity} ~ C^{value:.3f}"
        + brackets(None if fit.exponents.ci95 is None else fit.exponents.ci95[name], lambda x: f"{x:.3f}")
        for quantity, name, value in (
            ("N_opt", "n_opt", fit.exponents.n_opt),
            ("D_opt", "d_opt", fit.exponents.d_opt),
        )
    )


def _evidence(fit: Fit) -> str:
    evidence = fit.convergence
    if evidence.next_best_gap is None:
        agree = f"all {evidence.n_starts} starts end in this optimum"
    else:
        agree = (
            f"{evidence.n_starts} starts end in {evidence.n_optima} optima, the next {evidence.next_best_gap:.1%} above"
        )
    return (
        f"Objective {fit.objective_value:.6g}, gradient {evidence.gradient_norm:.1g}, {agree}; "
        f"residuals' sd {fit.residual_sd:.2%}. Data {fit.data_digest[:12]}."
    )


def _noise(fit: Fit) -> str:
    model = fit.noise_model
    assert model is not None
    return (
        f"Runs are weighed by the noise between seeds: {model.sd:.2%} of loss at {count(model.n_params)} parameters, going as "
        f"N^{-model.exponent:.2f} ({model.degrees_of_freedom} degrees of freedom, {count(model.sizes.lo)} to "
        f"{count(model.sizes.hi)} parameters)."
    )


def left_out_in_words(excluded: Sequence[Excluded]) -> list[str]:
    """One line a run, or one a reason where there are many; reasons that differ in numbers or quoted values are one."""
    if len(excluded) <= MOST_LISTED:
        return [f"left out: {out.run_id}: {out.reason}" for out in excluded]
    by_reason: dict[str, list[Excluded]] = {}
    for out in excluded:
        by_reason.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.,e+-]*", "#", out.reason), []).append(out)
    lines = []
    for runs in sorted(by_reason.values(), key=len, reverse=True):
        first = runs[0]
        alike = "" if len({out.reason for out in runs}) == 1 else ", or alike"
        named = ", ".join(out.run_id for out in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
        what = f"{len(runs)} runs" if len(runs) > 1 else first.run_id
        lines.append(f"left out: {what}: {first.reason}{alike}" + (f" ({named})" if len(runs) > 1 else ""))
    return lines


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
