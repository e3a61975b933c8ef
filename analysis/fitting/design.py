"""Whether a set of runs can tell a law's parameters apart, asked before anything is fitted.

What a design can't identify is a property of its N and D, not of one draw of noise: the condition number is taken where the
law has its usual shape (`REFERENCE`) rather than at the fitted optimum, where noise moves it by orders of magnitude (four sizes
within 20 % of each other: 60 to 5e7 over sixty draws of noise, against 1.5e4 at the usual shape).
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Law, Problem
from analysis.laws.repetition import effective_tokens
from analysis.words import count
from llama.errors import UserError

MIN_SIZES = 3
MIN_TOKEN_COUNTS = 3
#: Sd that ln D keeps once ln N is known, and the other way round. One ratio D/N with 5 % jitter has 0.05, runs at 10, 15 and
#: 20 tokens a parameter 0.28: both send exponents anywhere. Published designs that identify the law have 0.5 and more, as has
#: the least that is called good here: four sizes over a factor of 8 at three ratios over a factor of 8.
MIN_SPREAD = 0.3
#: Share of E and of either term in the loss at the middle of the design, and both exponents, where the design is judged.
REFERENCE = (0.5, 0.25, 0.25, 0.35)
#: At the optimum a condition number past this is a warning: the fitted shape is one where parameters blur.
BLURRED = 2_000.0
#: Counts and losses beyond these are no counts and losses, and their powers leave the range of floats.
LEAST, MOST = 1e-30, 1e30


def impossible(column: str, values_n: Array) -> list[str]:
    """A reason for each value that has no logarithm or can't be meant, "" for the others."""
    return [
        "" if LEAST <= value <= MOST else f"{column} is {value:g}, which is not between {LEAST:g} and {MOST:g}"
        for value in values_n.tolist()
    ]


def check_design(n_params_n: Array, n_tokens_n: Array, loss_n: Array, law: Law) -> None:
    """Refuse runs that can't identify `law` in N and D. What is the law's own beyond those it checks itself (`Law.check`).

    Raises:
        UserError: too few runs, sizes or token counts, sizes too near each other, N and D that move together, or equal
            losses; says what must vary.
    """
    runs, sizes, tokens = len(loss_n), len(np.unique(n_params_n)), len(np.unique(n_tokens_n))
    parameters = len(law.parameters)
    needed = parameters + law.spare_runs
    if sizes < MIN_SIZES:
        raise UserError(
            f"{_count(runs, 'usable run')} of {_count(sizes, 'model size')}: a law in N needs at least {MIN_SIZES} sizes. "
            "Add runs of other sizes, over a factor of 8 or more."
        )
    if tokens < MIN_TOKEN_COUNTS:
        raise UserError(
            f"{_count(runs, 'usable run')} with {_count(tokens, 'token count')}: a law in D needs at least "
            f"{MIN_TOKEN_COUNTS}. Train each size on several numbers of tokens."
        )
    if runs < needed:
        raise UserError(
            f"{_count(runs, 'usable run')} can't identify {parameters} parameters: at least {needed} are needed for the law "
            f"{law.name}. Add runs."
        )
    if np.ptp(np.log(loss_n)) < 1e-9:
        raise UserError(
            f"all {runs} usable runs have the loss {loss_n[0]:g}: there is nothing to fit. Check the column."
        )
    log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
    for values, sd, many, what in (
        (n_params_n, log_n.std(), f"{sizes} sizes", "size"),
        (n_tokens_n, log_d.std(), f"{tokens} token counts", "data"),
    ):
        if sd < MIN_SPREAD:
            raise UserError(
                f"the {many} lie within a factor of {values.max() / values.min():.3g} ({count(values.min())} to "
                f"{count(values.max())}), so what {what} gives can't be seen. Spread the "
                f"{'sizes' if what == 'size' else 'tokens at each size'} over a factor of 8 or more."
            )
    spread = min(_spread_given(log_d, log_n), _spread_given(log_n, log_d))
    if spread < MIN_SPREAD:
        ratio = n_tokens_n / n_params_n
        raise UserError(
            f"N and D move together in these {runs} runs (D/N from {ratio.min():.3g} to {ratio.max():.3g}; the sd of ln D once "
            f"ln N is known, or the reverse, is {spread:.2f}, and at least {MIN_SPREAD} is needed), so what size costs can't "
            "be told from what data cost. Train each size at several ratios D/N, spread by a factor of 4 or more."
        )


def check_condition(law: Law, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None) -> float:
    """The design's condition number where the law has its usual shape, refused past the law's bound.

    The bounds are from a scan of sound and unsound designs (`python -m benchmarks.design` prints it). For chinchilla, sound
    ones have 20 to 130, four sizes over a factor of 4 have 260, over 3 have 420, over 2 have 1,000, within 20 % of each other
    15,000: the bound is 500. Over-training ties the exponents (sound 11 to 65, sizes within 20 % 100: 80), Kaplan has no E
    (sound 3 to 22, one ratio with 5 % jitter 100 to 150: 75), Skaling's k blurs with both exponents (sound 50 to 2,000, ratios
    over a factor of 2 8,800: 3,000).

    Raises:
        UserError: the number is past the bound; says what must vary.
    """
    number = design_condition(law, n_params_n, n_tokens_n, unique_tokens_n)
    if not number <= law.max_condition:
        size_span, token_span = (float(values.max() / values.min()) for values in (n_params_n, n_tokens_n))
        raise UserError(
            f"the design can't tell the parameters of the law {law.name} apart: its condition number is {number:.3g}, and at "
            f"most {law.max_condition:g} is accepted. Sizes span a factor of {size_span:.3g} and tokens one of "
            f"{token_span:.3g}: spread {'the sizes' if size_span <= token_span else 'the tokens at each size'} over a factor "
            "of 8 or more, and add runs between."
        )
    return number


def design_condition(law: Law, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None = None) -> float:
    """Condition number on these runs of a `law` through losses of the usual shape, whatever was measured."""
    problem, theta_P = _usual(law, n_params_n, n_tokens_n, unique_tokens_n, 1.0)
    return condition_number(problem, theta_P, felt_only=True)


def usual_shape(
    law: Law, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None, mean_loss: float
) -> Array:
    """Parameters (P,) of a `law` near losses of the usual shape (`REFERENCE`) on these runs, `mean_loss` in their middle."""
    problem, theta_P = _usual(law, n_params_n, n_tokens_n, unique_tokens_n, mean_loss)
    return np.asarray(problem.to_params(theta_P[None])[0])


def _usual(
    law: Law, n_params_n: Array, n_tokens_n: Array, unique_tokens_n: Array | None, mean_loss: float
) -> tuple[Problem, Array]:
    limit, of_size, of_data, exponent = REFERENCE
    log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
    if law.uses_unique_tokens and unique_tokens_n is not None:
        log_d = np.log(effective_tokens(n_tokens_n, unique_tokens_n))
    loss = mean_loss * (
        limit
        + of_size * np.exp(-exponent * (log_n - log_n.mean()))
        + of_data * np.exp(-exponent * (log_d - log_d.mean()))
    )
    problem = law.problem(n_params_n, n_tokens_n, loss, unique_tokens_n)
    return problem, problem.starts(loss / problem.scale, np.ones_like(loss))[0]


def identifies(n_params_n: Array, n_tokens_n: Array) -> bool:
    """Whether these runs, a resample of ones that passed, still vary enough."""
    if len(np.unique(n_params_n)) < MIN_SIZES or len(np.unique(n_tokens_n)) < MIN_TOKEN_COUNTS:
        return False
    log_n, log_d = np.log(n_params_n), np.log(n_tokens_n)
    return min(_spread_given(log_d, log_n), _spread_given(log_n, log_d)) >= MIN_SPREAD


def condition_number(problem: Problem, theta_P: Array, *, felt_only: bool = False) -> float:
    """Condition number of the Jacobian of log L in the solver's coordinates, each column at unit length.

    `felt_only` leaves out parameters that no run feels at all: nothing is known of them, but they blur no other.
    """
    predicted, jacobian = problem.evaluate(theta_P[None])
    columns = jacobian[0] / predicted
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    if felt_only:
        columns, lengths = columns[lengths[:, 0] > 0], lengths[lengths[:, 0] > 0]
    if not (np.isfinite(lengths) & (lengths > 0)).all():
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
