"""A recommendation in words: the sentence to quote first, then what it costs, how sure it is, and what it hangs on."""

from __future__ import annotations

import math
from collections.abc import Callable

from analysis.fitting.describe_fit import law_in_words, left_out_in_words
from analysis.results import (
    Choice,
    Contribution,
    Family,
    Interval,
    Limit,
    Optimum,
    Recommendation,
    TaskForecast,
    Uncertainty,
)
from analysis.words import brackets, count, flops, number, seconds, times

#: Break-evens shown; the JSON has all.
SHOWN = 8
#: What an interval of the recommended model is of.
ALONE, TOGETHER = "sampling alone", "sampling and choices together"


def describe_recommendation(recommendation: Recommendation) -> str:
    """The lines that `isoloss recommend` prints, the answer on the first."""
    lines = [headline(recommendation), ""]
    lines += _alternatives(recommendation)
    lines += [task_in_words(task) for task in recommendation.tasks]
    lines += _near(recommendation)
    lines += _regret(recommendation)
    lines += _break_evens(recommendation)
    lines += [
        f"Limit {limit.name.replace('_', ' ')} ({limit.rule}): "
        + (f"binds; {limit.effect}." if limit.binds else "does not bind.")
        for limit in recommendation.limits
    ]
    if recommendation.family is not None:
        lines += ["", *_family(recommendation.family)]
    if recommendation.uncertainty is not None:
        lines += ["", *_uncertainty(recommendation.uncertainty), *_held(recommendation)]
    lines += ["", *_rests_on(recommendation)]
    lines += [f"extrapolated: {words}" for words in recommendation.outside_fitted_range]
    lines += left_out_in_words(recommendation.fit.excluded)
    lines += [f"warning: {words}" for words in recommendation.warnings]
    return "\n".join(lines)


def headline(recommendation: Recommendation) -> str:
    """The sentence that a decision-maker can quote, its interval the joint one where that is about the same law and count.

    Where the runs reject the law that was asked for the sentence says so, and a second one tells the preferred law's answer.
    """
    asked, best, whole = recommendation.question, recommendation.recommended, recommendation.uncertainty
    ci95, of = best.ci95, ALONE
    # Sizes by another law or of another count don't belong behind this one.
    alike = whole is not None and whole.preferred is None and whole.counting == recommendation.fit.counting
    if whole is not None and whole.joint is not None and alike:
        ci95, of = whole.joint, TOGETHER
    model = _model(best, ci95, recommendation.limits, of)
    other = None if whole is None else whole.preferred
    if other is not None:
        model += f", by a law that these runs reject ({recommendation.fit.law})"
    served = "" if asked.demand_tokens is None else f" and {count(asked.demand_tokens)} tokens to serve"
    cost = _cost(best.cost, best.unit)
    reached = f"a loss of {best.loss:.3f}{_between(ci95, 'loss', lambda x: f'{x:.3f}')}"
    if asked.kind == "budget":
        goal = (
            f"With {_cost(asked.value, asked.unit)} for {'training' if not served else 'training and serving'}{served}"
        )
        said = f"{goal}, train {model}: it reaches {reached}, the least that this buys"
    elif asked.kind == "compute" and not served:
        said = f"With {flops(asked.value)} of training, train {model}: it reaches {reached}, the least that this buys"
    elif asked.kind == "compute":
        said = (
            f"For the loss that {flops(asked.value)} of training can reach ({best.loss:.3f}){served}, train {model}: training "
            f"and serving cost {cost}"
        )
    else:
        what = "training costs" if not served else "training and serving cost"
        said = f"For a loss of {asked.value:.4g}{served}, train {model}: {what} {cost}, the least of all sizes"
    if recommendation.saved is not None and asked.kind != "budget" and recommendation.saved > 0.0005:
        said += f", {recommendation.saved:.1%} less than the model that is cheapest to train"
    warned = " (extrapolated)" if recommendation.outside_fitted_range else ""
    return f"{said}{warned}." + ("" if whole is None or other is None else f" {_by_preferred_law(other, whole.joint)}")


def _by_preferred_law(other: Choice, joint: dict[str, Interval] | None) -> str:
    """What the law says that the runs prefer; the joint interval is about it."""
    if other.n_params is None or other.n_tokens is None:
        return f"By {other.choice}, which they prefer, no model answers."
    together = "" if joint is None else f" (95 %: {TOGETHER})"
    return (
        f"By {other.choice}, which they prefer, it is {count(other.n_params)} parameters{_between(joint, 'n_params', count)} "
        f"on {count(other.n_tokens)} tokens{_between(joint, 'n_tokens', count)}{together}."
    )


def _alternatives(recommendation: Recommendation) -> list[str]:
    train, own = recommendation.training_optimal, recommendation.lifetime_optimal
    asked = recommendation.question
    what = {"target_loss": "Cheapest to train", "compute": "Compute-optimal", "budget": "If training alone were paid"}
    limits = recommendation.limits
    lines = [
        f"{what[asked.kind]}: {_model(train, train.ci95, limits, ALONE)}, a loss of {train.loss:.3f}, "
        f"{_cost(train.cost, train.unit)} to train."
    ]
    if own is not None:
        kind = "Best to train and serve" if asked.kind == "budget" else "Cheapest to own"
        smaller = own.n_params / train.n_params
        lines.append(
            f"{kind}: {_model(own, own.ci95, limits, ALONE)}, a loss of {own.loss:.3f}, "
            f"{_cost(own.cost, own.unit)} in all: {times(smaller)} the size on {times(own.n_tokens / train.n_tokens)} the "
            "tokens."
        )
    low, high = recommendation.loss_forecast.lo, recommendation.loss_forecast.hi
    lines.append(
        f"A run of it should measure a loss of {low:.3f} to {high:.3f} (95 %, the error of extrapolation included)."
    )
    return lines


def task_in_words(task: TaskForecast) -> str:
    """What the model should do downstream, and whether its loss lies where the curve was fitted."""
    if task.value is None:
        return f"No forecast of {task.target}: {task.absent}"
    beyond = "" if task.outside is None else f" (extrapolated: {task.outside})"
    between = brackets(task.ci95, lambda share: f"{share:.1%}")
    return f"At that loss its {task.target} should be {task.value:.1%}{between}, by the runs' own curve{beyond}."


def _near(recommendation: Recommendation) -> list[str]:
    one, five = recommendation.within_1pct, recommendation.within_5pct
    if one is None or five is None:
        return []
    return [
        f"From {count(one.lo)} to {count(one.hi)} parameters the cost stays within 1 % of the least, from {count(five.lo)} to "
        f"{count(five.hi)} within 5 %."
    ]


def _regret(recommendation: Recommendation) -> list[str]:
    wrong = [regret for regret in recommendation.regret if regret.factor != 1]
    if not wrong:
        return []
    said = "; ".join(
        f"{times(regret.factor)} the forecast: {regret.extra_cost:.1%} more than the best"
        f"{brackets(regret.ci95, lambda x: f'{x:.1%}')}"
        for regret in wrong
    )
    held = " The best is sought within the limits." if _holders(recommendation) else ""
    return [f"If the demand turns out otherwise, this size costs, at {said}.{held}"]


def _break_evens(recommendation: Recommendation) -> list[str]:
    lines = []
    for pair in recommendation.break_even[:SHOWN]:
        sides = f"{count(pair.small)} against {count(pair.large)} parameters"
        if pair.demand_tokens is None:
            lines.append(f"Break-even, {sides}: the smaller never pays.")
        elif pair.demand_tokens == 0:
            lines.append(f"Break-even, {sides}: the smaller is cheaper to train too.")
        else:
            lines.append(
                f"Break-even, {sides}: from {count(pair.demand_tokens)} tokens served{brackets(pair.ci95, count)}."
            )
    more = len(recommendation.break_even) - SHOWN
    return lines + ([f"... and {more} more pairs of sizes."] if more > 0 else [])


def _family(family: Family) -> list[str]:
    lines = [
        f"A family under {_cost(family.budget, family.unit)}, a loss of {family.weighted_loss:.3f} a served token:"
    ]
    for member in family.members:
        ci95 = member.ci95
        tokens, loss = (
            brackets(None if ci95 is None else ci95[name], show)
            for name, show in (("n_tokens", count), ("loss", _three))
        )
        beyond = " (extrapolated)" if member.outside_fitted_range else ""
        lines.append(
            f"  {count(member.n_params)} parameters on {count(member.n_tokens)} tokens{tokens}: a loss of "
            f"{member.loss:.3f}{loss}, for {member.demand_share:.0%} of the demand{beyond}"
        )
    worse = family.weighted_loss - family.alone_loss
    return [
        *lines,
        f"  The best single model under the same budget reaches {family.alone_loss:.3f}, {abs(worse):.3f} "
        f"{'lower' if worse > 0 else 'higher'}: a family pays where its sizes serve what one can't.",
        f"  {family.rule}.",
    ]


def _uncertainty(found: Uncertainty) -> list[str]:
    """The table of what each factor adds."""
    lines = [f"What the size owes to each choice ({found.counting}; sd of ln N, then 95 % or least and largest):"]
    lines += [f"  {_contribution(part)}" for part in found.contributions]
    if found.joint is not None and found.sd_log_n is not None:
        low, high = found.joint["n_params"].lo, found.joint["n_params"].hi
        about = "" if found.preferred is None else f"; about {found.preferred.choice}, which the runs prefer"
        lines.append(f"  {'all together':12} {found.sd_log_n:5.3f}  {count(low)} to {count(high)}{about}")
    for choice in found.choices:
        if not choice.joined:
            lines.append(f"  left out: {choice.factor} {choice.choice}{_would_be(choice)}: {choice.reason}")
    return lines


def _contribution(part: Contribution) -> str:
    if part.sd_log_n is None:
        return f"{part.factor:12}     -  {part.reason}"
    between = "" if part.n_params is None else f"{count(part.n_params.lo)} to {count(part.n_params.hi)}; "
    return f"{part.factor:12} {part.sd_log_n:5.3f}  {between}{part.reason}"


def _would_be(choice: Choice) -> str:
    return "" if choice.n_params is None else f" (it would say {count(choice.n_params)})"


def _rests_on(recommendation: Recommendation) -> list[str]:
    costs = recommendation.costs
    lines = [law_in_words(recommendation.fit)]
    lines.append(f"Cost of training: {costs.train.rule}.")
    if recommendation.question.demand_tokens is not None:
        lines.append(f"Cost of serving: {costs.serve.rule}.")
    if costs.used:
        lines.append("Used: " + ", ".join(f"{name} {number(value)}" for name, value in costs.used.items()) + ".")
    return lines


def _model(best: Optimum, ci95: dict[str, Interval] | None, limits: tuple[Limit, ...], of: str) -> str:
    """N and D, each with its interval, and what the intervals are of."""
    size, tokens = (_between(ci95, name, count) for name in ("n_params", "n_tokens"))
    shown = f" (95 %: {of})" if size or tokens else ""
    held = [_limit_name(limit.name) for limit in limits if _holds(limit, best.n_params)]
    if held:
        # An interval of one size would look like certainty.
        size = f" (held there by {' and '.join(held)})"
    return f"{count(best.n_params)} parameters{size} on {count(best.n_tokens)} tokens{tokens}{shown}"


def _holds(limit: Limit, n_params: float) -> bool:
    return limit.n_params is not None and any(
        math.isclose(n_params, edge, rel_tol=1e-6) for edge in (limit.n_params.lo, limit.n_params.hi)
    )


def _holders(recommendation: Recommendation) -> list[str]:
    """The limits at whose edge the recommended size lies."""
    size = recommendation.recommended.n_params
    return [_limit_name(limit.name) for limit in recommendation.limits if _holds(limit, size)]


def _held(recommendation: Recommendation) -> list[str]:
    held = _holders(recommendation)
    return [f"  {' and '.join(held)} holds the size where it is: no spread here is no certainty."] if held else []


def _limit_name(name: str) -> str:
    return {"memory": "--memory-bytes", "tpot": "--tpot-seconds"}.get(name, "--" + name.replace("_", "-"))


def _between(ci95: dict[str, Interval] | None, name: str, show: Callable[[float], str]) -> str:
    """The interval in brackets; nothing where what was asked leaves no room for one."""
    if ci95 is not None and math.isclose(ci95[name].lo, ci95[name].hi, rel_tol=1e-6):
        return ""
    return brackets(None if ci95 is None else ci95[name], show)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _cost(value: float, unit: str) -> str:
    return f"${value:,.0f}" if unit == "USD" and value >= 100 else seconds(value, unit)
