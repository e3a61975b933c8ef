"""Whether a question has an answer that the runs can speak to: what is out of reach or senselessly far, and what limits do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.decisions.choose import Pick, Setting
from analysis.decisions.lifetime import out_of_reach
from analysis.decisions.limits import Bound
from analysis.laws import get_law
from analysis.results import Fit, Limit, Question
from analysis.words import count, number
from llama.errors import UserError

#: No fit says anything this many times beyond (or below) the compute, the sizes or the tokens that it was fitted to.
SENSELESS, FAR = 1e9, 1e3
#: Nor of a loss this many times the worst measured one.
WORSE = 1.5
#: ln N or ln D moving by more than this is another recommendation; the loss, by a tenth of it.
MOVES = 2e-3
OPTIONS = {"compute": "--compute", "target_loss": "--target-loss", "budget": "--budget"}


def no_answer(fit: Fit, setting: Setting, found: tuple[Bound, ...], decide: Callable[[tuple[Bound, ...]], Pick]) -> str:
    """Why no model answers the question: a limit that leaves nothing, the law's own limit, or a budget that serving uses up."""
    question = setting.question
    what = f"{OPTIONS[question.kind]} {number(question.value)}"
    if found and np.isfinite(decide(()).n_params):
        alone = [bound for bound in found if np.isfinite(decide(tuple(b for b in found if b is not bound)).n_params)]
        blamed = alone or list(found)
        return f"no model answers {what} within {' and '.join(bound.in_words for bound in blamed)}"
    if question.kind == "budget":
        return (
            f"{what} {question.unit} is spent on serving {count(setting.demand_tokens)} tokens alone, at any size: raise it or "
            "lower --demand"
        )
    return out_of_reach(fit, get_law(fit.law), question.value, setting.unique_tokens)


def check_reach(fit: Fit, question: Question, best: Pick, found: tuple[Bound, ...]) -> None:
    """Refuse an answer that is no model, or that lies so far from the runs that the law says nothing about it.

    Raises:
        UserError: says what was asked, what it would take, and how far that is.
    """
    option, value, fitted = OPTIONS[question.kind], question.value, fit.fitted_range
    if question.kind == "target_loss" and value > fitted.loss.hi:
        raise UserError(
            f"{option} {value:g} is above every measured loss ({number(fitted.loss.lo)} to {number(fitted.loss.hi)} nats): "
            "every run was better"
        )
    n, d, loss = float(best.n_params), float(best.n_tokens), float(best.loss)
    served = "" if question.demand_tokens is None else f" with --demand {question.demand_tokens:g}"
    within = f" within {' and '.join(bound.in_words for bound in found)}" if found else ""
    asks = (
        f"{option} {value:g}{served}{within} asks for a model of {count(n)} parameters on {count(d)} tokens with a loss of "
        f"{number(loss)}"
    )
    for what, here, known, most in (
        ("compute", n * d, fitted.n_times_d, SENSELESS),
        ("sizes", n, fitted.n_params, FAR),
        ("tokens", d, fitted.n_tokens, FAR),
    ):
        factor, way = max((here / known.hi, "beyond"), (known.lo / here, "below"))
        if factor > most:
            raise UserError(
                f"{asks}, {number(factor)} times {way} the {what} that the law was fitted to: no fit says anything there"
            )
    if loss > WORSE * fitted.loss.hi:
        raise UserError(f"{asks}, far worse than the worst run's {number(fitted.loss.hi)}: that is no model to train")


def bind(bound: Bound, found: tuple[Bound, ...], best: Pick, decide: Callable[[tuple[Bound, ...]], Pick]) -> Limit:
    """The limit, and what the recommendation would be without it."""
    free = decide(tuple(other for other in found if other is not bound))
    moved = max(abs(float(np.log(free[field] / best[field]))) for field in (0, 1))
    if moved <= MOVES:
        return bound.found(None)
    effect = f"without it: {count(float(free.n_params))} parameters on {count(float(free.n_tokens))} tokens"
    if abs(float(free.cost / best.cost) - 1) > MOVES:
        less = float(1 - free.cost / best.cost)
        effect += f", {abs(less):.1%} {'less' if less > 0 else 'more'} cost"
    if abs(float(free.loss / best.loss) - 1) > MOVES / 10:
        effect += f", a loss of {float(free.loss):.4f} instead of {float(best.loss):.4f}"
    return bound.found(effect)
