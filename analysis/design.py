"""Whether a set of runs can tell a law's parameters apart, asked before anything is fitted."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Problem
from llama.errors import UserError

MIN_SIZES = 3
MIN_TOKEN_COUNTS = 3
#: Runs beyond the number of parameters.
MIN_SPARE_RUNS = 2
#: Sd that ln D keeps once ln N is known, and the other way round. One ratio D/N with 5 % jitter has 0.05, runs at 10, 15 and
#: 20 tokens a parameter 0.28: both send exponents anywhere. Published designs that identify the law have 0.5 and more.
MIN_SPREAD = 0.3
#: Condition number of the log loss's Jacobian at the optimum, columns at unit length. Sound designs have 20 to 700, three
#: sizes within 20 % of each other 1e5, two sizes 1e16.
MAX_CONDITION = 2_000.0


def check_design(n_params_n: Array, n_tokens_n: Array, loss_n: Array, n_parameters: int) -> None:
    """Refuse runs that can't identify a law in N and D.

    Raises:
        UserError: a value without a logarithm, too few runs, sizes or token counts, N and D that move together, or equal
            losses; says what must vary.
    """
    for name, values in (("N", n_params_n), ("D", n_tokens_n), ("loss", loss_n)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise UserError(
                f"a run's {name} is {values[~(np.isfinite(values) & (values > 0))][0]:g}; it must be above 0 and finite"
            )
    runs, sizes, tokens = len(loss_n), len(np.unique(n_params_n)), len(np.unique(n_tokens_n))
    needed = n_parameters + MIN_SPARE_RUNS
    if sizes < MIN_SIZES:
        raise UserError(
            f"{runs} usable runs have {_count(sizes, 'model size')}: a law in N needs at least {MIN_SIZES}. "
            "Add runs of other sizes."
        )
    if tokens < MIN_TOKEN_COUNTS:
        raise UserError(
            f"{runs} usable runs have {_count(tokens, 'token count')}: a law in D needs at least {MIN_TOKEN_COUNTS}. "
            "Train each size on several numbers of tokens."
        )
    if runs < needed:
        raise UserError(
            f"{_count(runs, 'usable run')} can't identify {n_parameters} parameters: at least {needed} are needed. Add runs."
        )
    if np.ptp(np.log(loss_n)) < 1e-9:
        raise UserError(
            f"all {runs} usable runs have the loss {loss_n[0]:g}: there is nothing to fit. Check the column."
        )
    log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
    spread = min(_spread_given(log_d, log_n), _spread_given(log_n, log_d))
    if spread < MIN_SPREAD:
        ratio = n_tokens_n / n_params_n
        raise UserError(
            f"N and D move together in these {runs} runs (D/N from {ratio.min():.3g} to {ratio.max():.3g}; the sd of ln D once "
            f"ln N is known, or the reverse, is {spread:.2f}, and at least {MIN_SPREAD} is needed), so what size costs can't "
            "be told from what data cost. Train each size at several ratios D/N, spread by a factor of 4 or more."
        )


def check_condition(condition_number: float, spare_runs: int) -> None:
    """Refuse an optimum whose parameters the design can't tell apart.

    Raises:
        UserError: the condition number is past the stated bound.
    """
    if not condition_number <= MAX_CONDITION:
        raise UserError(
            f"the design can't tell the law's parameters apart: the condition number at the optimum is {condition_number:.3g} "
            f"(at most {MAX_CONDITION:g} is accepted, {spare_runs} runs to spare). Spread the sizes and the tokens at each "
            "size further: a factor of 4 or more in each."
        )


def identifies(n_params_n: Array, n_tokens_n: Array) -> bool:
    """Whether these runs, a resample of ones that passed, still vary enough."""
    if len(np.unique(n_params_n)) < MIN_SIZES or len(np.unique(n_tokens_n)) < MIN_TOKEN_COUNTS:
        return False
    log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
    return min(_spread_given(log_d, log_n), _spread_given(log_n, log_d)) >= MIN_SPREAD


def condition_number(problem: Problem, theta_P: Array) -> float:
    """Condition number of the Jacobian of log L in the solver's coordinates, each column at unit length."""
    predicted, jacobian = problem.evaluate(theta_P[None])
    columns = jacobian[0] / predicted
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    if not (lengths > 0).all():
        return float("inf")
    singular = np.linalg.svd(columns / lengths, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")


def _spread_given(of: Array, given: Array) -> float:
    """Sd of `of` around its straight line in `given`."""
    centred, other = of - of.mean(), given - given.mean()
    slope = float(other @ centred / (other @ other)) if other @ other > 0 else 0.0
    return float((centred - slope * other).std())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
