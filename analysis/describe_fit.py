"""A fit in words: the lines that `isoloss fit` prints, and the sentences that the study's answer takes from it."""

from __future__ import annotations

from collections.abc import Callable

from analysis.results import Fit, Interval
from analysis.words import count, number


def describe_fit(fit: Fit) -> str:
    """A fit as the lines that `isoloss fit` prints: law, exponents, held-out error, evidence, what was left out."""
    exponents = " and ".join(
        f"{quantity} ~ C^{value:.3f}"
        + ("" if fit.exponents.ci95 is None else f" {brackets(fit.exponents.ci95[name], lambda x: f'{x:.3f}')}")
        for quantity, name, value in (
            ("N_opt", "n_opt", fit.exponents.n_opt),
            ("D_opt", "d_opt", fit.exponents.d_opt),
        )
    )
    evidence = fit.convergence
    if evidence.n_optima == 1:
        agree = f"all {evidence.n_starts} starts end in this optimum"
    else:
        agree = (
            f"{evidence.n_starts} starts end in {evidence.n_optima} optima, the next {evidence.next_best_gap:.1%} above"
        )
    lines = [
        law_in_words(fit),
        f"Compute-optimal: {exponents}, when compute goes as N D.",
        held_out_in_words(fit),
        f"Objective {fit.objective_value:.6g}, gradient {evidence.gradient_norm:.1g}, {agree}; "
        f"residuals' sd {fit.residual_sd:.2%}.",
    ]
    lines += [f"left out: {out.run_id}: {out.reason}" for out in fit.excluded]
    lines += [f"warning: {warning}" for warning in fit.warnings]
    return "\n".join(lines)


def law_in_words(fit: Fit) -> str:
    def with_interval(name: str, value: str) -> str:
        return value if fit.ci95 is None else f"{value} {brackets(fit.ci95[name], number)}"

    shown = {name: with_interval(name, number(value)) for name, value in fit.params.items()}
    form = (
        f"L = {shown['E']} + {shown['A']} N^-({shown['alpha']}) + {shown['B']} D^-({shown['beta']})"
        if fit.law == "chinchilla"
        else ", ".join(f"{name} {value}" for name, value in shown.items())
    )
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


def brackets(interval: Interval, show: Callable[[float], str]) -> str:
    return f"[{show(interval.lo)}, {show(interval.hi)}]"
