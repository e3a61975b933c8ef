"""The recommendation on the page: what to train, what a wrong forecast costs, and what its uncertainty is made of."""

from __future__ import annotations

from analysis.decisions.describe_recommendation import headline, task_in_words
from analysis.page.cells import NOTHING, cell, cost_unit, facts, interval, missing, percent, span
from analysis.page.markup import Column, Html, bullets, element, join, table
from analysis.plots.parts import COUNTING_WORDS
from analysis.plots.style import format_number
from analysis.plots.uncertainty import FACTOR_WORDS
from analysis.results import Choice, Family, Recommendation, Study, Uncertainty

_LIMIT_WORDS = {
    "memory": "memory",
    "tpot": "time a decoded token",
    "largest_size": "largest size",
    "smallest_size": "smallest size",
    "unique_tokens": "unique tokens",
}


def recommendation(study: Study) -> Html:
    """What to train, and what it would cost if the demand turns out otherwise."""
    advice = study.recommendation
    if advice is None:
        return missing(study, "recommendation")
    best = advice.recommended
    unit = cost_unit(best.unit)
    joint = advice.uncertainty.joint if advice.uncertainty else None
    said = {
        "size N": format_number(best.n_params, "count"),
        "95 % of N, sampling alone": interval(best.ci95, "n_params", "count"),
        "95 % of N, every choice joined": interval(joint, "n_params", "count"),
        "tokens D": f"{format_number(best.n_tokens, 'count')} ({interval(best.ci95, 'n_tokens', 'count')})",
        "cost": f"{format_number(best.cost, unit)} {best.unit} ({interval(best.ci95, 'cost', unit)})",
        "loss of a run of it": f"{span(advice.loss_forecast, 'plain', digits=4)} (95 %, the error of extrapolation included)",
        "N within 1 % of the least cost": span(advice.within_1pct, "count"),
        "N within 5 %": span(advice.within_5pct, "count"),
        "fitted range": "; ".join(advice.outside_fitted_range) or "inside",
    }
    if advice.question.unique_tokens is not None:
        said["unique tokens"] = format_number(advice.question.unique_tokens, "count")
    return join(
        [
            element("p", headline(advice)),
            facts(said),
            bullets([task_in_words(task) for task in advice.tasks]) if advice.tasks else Html(),
            _regret(advice),
            _limits(advice),
            _family(advice.family) if advice.family else Html(),
            bullets(advice.warnings) if advice.warnings else Html(),
        ]
    )


def _regret(advice: Recommendation) -> Html:
    if not advice.regret:
        return Html()
    rows = [
        [
            f"{one.factor:g}×",
            format_number(one.demand_tokens, "count"),
            format_number(one.n_params_best, "count"),
            percent(one.extra_cost),
            span(one.ci95, "percent", digits=2),
        ]
        for one in advice.regret
    ]
    headings = ("demand over the forecast", "tokens served", "size that would be best", "cost over the least", "95 %")
    columns = [Column(heading=heading) for heading in headings]
    return join(
        [element("h3", "If the demand turns out otherwise"), table(columns, rows, label="Regret of a wrong forecast")]
    )


def _limits(advice: Recommendation) -> Html:
    if not advice.limits:
        return Html()
    rows = [
        [
            _LIMIT_WORDS[one.name],
            cell(one.value, "count"),
            span(one.n_params, "count"),
            one.rule,
            (one.effect or "binds") if one.binds else "does not bind",
        ]
        for one in advice.limits
    ]
    columns = [
        Column(heading="limit", align="left"),
        Column(heading="value"),
        Column(heading="sizes it allows"),
        Column(heading="rule", align="left"),
        Column(heading="effect", align="left"),
    ]
    return join([element("h3", "Limits"), table(columns, rows, label="Limits")])


def _family(family: Family) -> Html:
    unit = cost_unit(family.cost_unit)
    rows = [
        [
            format_number(one.n_params, "count"),
            percent(one.demand_share),
            format_number(one.n_tokens, "count"),
            f"{one.loss:.4f}",
            interval(one.ci95, "loss", digits=4),
            format_number(one.train_cost, unit),
            format_number(one.serve_cost, unit),
            "; ".join(one.outside_fitted_range) or "inside",
        ]
        for one in family.members
    ]
    priced = f"({family.cost_unit})"
    headings = ("N", "share of demand", "D", "loss", "95 %", f"training {priced}", f"serving {priced}")
    columns = [*(Column(heading=heading) for heading in headings), Column(heading="fitted range", align="left")]
    words = (
        f"{family.rule} Loss of a served token: {family.weighted_loss:.4f}; of the best single model under the same budget: "
        f"{family.alone_loss:.4f}."
    )
    return join([element("h3", "A family under one budget"), element("p", words), table(columns, rows, label="Family")])


def uncertainty(study: Study) -> Html:
    """What each factor adds to the decision's N, and every choice that was tried."""
    whole = study.recommendation.uncertainty if study.recommendation else None
    if whole is None:
        return missing(study, "recommendation")
    adds = [
        [
            FACTOR_WORDS[part.factor],
            NOTHING if part.sd_log_n is None else percent(part.sd_log_n),
            span(part.n_params, "count"),
            part.reason,
        ]
        for part in whole.contributions
    ]
    joint = whole.joint.get("n_params") if whole.joint else None
    together = NOTHING if whole.sd_log_n is None else percent(whole.sd_log_n)
    mixed = "every choice that the runs don't reject, laid over every draw"
    if whole.preferred is not None:
        mixed += f"; about {whole.preferred.choice}, which they prefer"
    adds.append(["all together", together, span(joint, "count"), mixed])
    columns = [
        Column(heading="source", align="left"),
        Column(heading="sd of ln N"),
        Column(heading="N"),
        Column(heading="over what", align="left"),
    ]
    words = (
        "Over draws the interval of N is a 95 % one, over choices it runs from the least to the largest answer. "
        f"{COUNTING_WORDS[whole.counting]}."
    )
    return join(
        [
            element("p", words, class_="soft"),
            table(columns, adds, label="What each source of uncertainty adds"),
            _choices(whole),
        ]
    )


def _choices(whole: Uncertainty) -> Html:
    columns = [
        Column(heading="choice", align="left"),
        *(Column(heading=heading) for heading in ("N", "95 %", "D", "loss", "cost")),
        Column(heading="part in the joint interval", align="left"),
    ]
    rows = [_choice_cells(choice) for choice in whole.choices]
    return join([element("h3", "Every choice that was tried"), table(columns, rows, label="Choices")])


def _choice_cells(choice: Choice) -> list[str]:
    mark = " (the fit's own)" if choice.used else ""
    return [
        f"{FACTOR_WORDS[choice.factor]}: {choice.choice}{mark}",
        cell(choice.n_params, "count"),
        interval(choice.ci95, "n_params", "count"),
        cell(choice.n_tokens, "count"),
        cell(choice.loss, "plain", digits=4),
        cell(choice.cost, "count"),
        "yes" if choice.joined else f"no: {choice.reason or 'no answer'}",
    ]
