"""The decision panel in HTML: its controls, and the study's own answer in the fields that the script fills anew."""

from __future__ import annotations

import math

import numpy as np

from analysis.decisions.search import surface, within
from analysis.laws import get_law
from analysis.page.cells import cost_unit, missing, span
from analysis.page.decision import Control, controls, unique_tokens_of
from analysis.page.markup import Html, element, join
from analysis.plots.parts import counting_words
from analysis.plots.style import format_number
from analysis.results import Array, Fit, Lifetime, Study

CHART_NOTE = "Blue ground: sizes within 5 % of the least cost. Grey: sizes that no fitted run has."
STATIC_NOTE = "This is the study's own question; where scripts are allowed, sliders ask others."


def panel(study: Study) -> Html:
    """The controls, hidden until the script shows them, and the answer to the study's own question."""
    if study.fit is None or study.lifetime is None:
        return missing(study, "lifetime")
    lifetime = study.lifetime
    fields = [_control(control) for control in controls(study)]
    sentence, answer = _answer(lifetime, study.fit, unique_tokens_of(study))
    words = (
        f"The fitted {study.fit.law} law and the study's costs ({lifetime.costs.source}; {lifetime.costs.train.rule}; "
        f"serving: {lifetime.costs.serve.rule}). Both models reach the target loss. {counting_words(study)}"
    )
    unique_tokens = unique_tokens_of(study)
    if math.isfinite(unique_tokens):
        words += (
            f" Training draws on {format_number(unique_tokens, 'count')} unique tokens; beyond them they repeat, and are worth "
            f"less (Muennighoff et al. 2023)."
        )
    elif get_law(study.fit.law).uses_unique_tokens:
        words += " Here no training token repeats."
    return join(
        [
            element("p", words, class_="soft"),
            sentence,
            element("div", *fields, class_="controls", hidden="hidden", role="group", aria_label="Assumptions"),
            answer,
            element(
                "div", class_="chart", hidden="hidden", role="img", aria_label="Cost of training and serving against N"
            ),
            element("p", CHART_NOTE, class_="soft", hidden="hidden"),
            element(
                "p",
                STATIC_NOTE,
                class_="soft static-note",
            ),
        ]
    )


def _control(control: Control) -> Html:
    place = f"decide-{control.name}"
    return element(
        "div",
        element("label", control.label, for_=place),
        # Ranges are in the control's own scale (log 10 where it is logarithmic), which the script sets.
        element("input", type="range", id=f"{place}-slider", aria_label=f"{control.label}, slider", step="any"),
        element("input", type="number", id=place, step="any", inputmode="decimal", aria_describedby=f"{place}-hint"),
        element("span", control.hint, class_="soft", id=f"{place}-hint"),
        class_="control",
        data_control=control.name,
        **({"data_percent": "yes"} if control.percent else {}),
    )


def _answer(lifetime: Lifetime, fit: Fit, unique_tokens: float) -> tuple[Html, Html]:
    """Fields that the script fills anew; what stands here is the study's own answer."""
    costs = lifetime.costs
    unit = cost_unit(costs.unit)
    own, train = lifetime.lifetime_optimal, lifetime.training_optimal
    trained_owned = float(train.n_tokens * costs.train(train.n_params)) + float(
        lifetime.demand_tokens * costs.serve(train.n_params)
    )
    law = surface(get_law(fit.law), unique_tokens)
    best = np.array(own.n_params), np.array(own.n_tokens)
    near = [
        within(
            law,
            law.as_vector(fit.params),
            costs,
            lifetime.target_loss,
            lifetime.demand_tokens,
            best,
            share,
            unique_tokens=unique_tokens,
        )
        for share in (0.01, 0.05)
    ]
    saved = costs.serve(train.n_params) - costs.serve(own.n_params)
    extra = own.n_tokens * costs.train(own.n_params) - train.n_tokens * costs.train(train.n_params)
    even = max(0.0, float(extra / saved)) if saved > 0 else math.inf
    rows = [
        ("cheapest to train", "train", train.n_params, train.n_tokens, trained_owned),
        ("cheapest to own", "own", own.n_params, own.n_tokens, own.cost),
    ]
    body = [
        element(
            "tr",
            element("th", name, scope="row", class_="text"),
            _cell(f"{key}-n", format_number(n, "count")),
            _cell(f"{key}-d", format_number(d, "count")),
            _cell(f"{key}-ratio", format_number(d / n, "plain")),
            _cell(f"{key}-training", format_number(float(d * costs.train(n)), unit)),
            _cell(f"{key}-cost", format_number(cost, unit)),
        )
        for name, key, n, d, cost in rows
    ]
    headings = [
        element("th", heading, scope="col", class_="number")
        for heading in ("N", "D (tokens)", "D/N", "training", "training and serving")
    ]
    ci95 = own.ci95 or {}
    facts = [
        ("95 % of N (sampling alone)", "own-ci", span(ci95.get("n_params"), "count")),
        ("N within 1 % of the least cost", "within-1", _pair(near[0])),
        ("N within 5 %", "within-5", _pair(near[1])),
        (
            "owning the smaller one pays from",
            "break-even",
            f"{format_number(even, 'count')} tokens served"
            if math.isfinite(even) and own.n_params < train.n_params
            else "both are the same model",
        ),
        ("fitted range", "ground", _ground(own.outside_fitted_range)),
    ]
    sentence = (
        f"At {format_number(lifetime.demand_tokens, 'count')} tokens served and a loss of {lifetime.target_loss:.4g}, the "
        f"cheapest model to own has {format_number(own.n_params, 'count')} parameters, trained on "
        f"{format_number(own.n_tokens, 'count')} tokens: {format_number(own.cost, unit)} {costs.unit}."
    )
    answer = element(
        "div",
        element(
            "div",
            element(
                "table",
                element("caption", "Costs in ", element("span", costs.unit, data_field="unit")),
                element("thead", element("tr", element("th", "model", scope="col", class_="text"), *headings)),
                element("tbody", *body),
            ),
            class_="scroll",
            role="region",
            tabindex="0",
            aria_label="The two models",
        ),
        element(
            "dl",
            *(join([element("dt", name), element("dd", text, data_field=field)]) for name, field, text in facts),
            class_="facts",
        ),
        class_="answer",
    )
    return element("p", sentence, class_="sentence", data_field="sentence", aria_live="polite"), answer


def _cell(field: str, text: str) -> Html:
    return element("td", text, class_="number", data_field=field)


def _pair(ends: Array) -> str:
    return f"{format_number(float(ends[0]), 'count')} to {format_number(float(ends[1]), 'count')}"


def _ground(outside: tuple[str, ...]) -> str:
    return f"extrapolated: {'; '.join(outside)}" if outside else "inside"
