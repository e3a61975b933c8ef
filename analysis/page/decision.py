"""The decision panel: what its script evaluates, and the same answer in plain HTML for readers without scripts.

The page carries the fitted law as a power sum, a thinned set of its bootstrap draws and the costs of a token. The script
(`decision.js` for the mathematics, `panel.js` for the controls) decides anew for every demand, target loss, price and
utilisation; the fields it fills are the ones that are written here for the study's own question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.page.cells import missing
from analysis.page.markup import Html, element, join
from analysis.plots.parts import counting_words
from analysis.plots.style import Unit, format_number
from analysis.results import Array, Costs, Fit, Interval, Lifetime, Study, TokenCost
from analysis.search import surface, within

#: Draws that the page carries, evenly picked: the interval's ends move by less than its width tells.
MOST_DRAWS = 200
#: How far beyond the study's own demand the slider reaches, as factors.
DEMAND_REACH = (1e-4, 1e4)
#: The least target loss is the law's best at this many times the largest fitted compute.
BEYOND = 100.0
NOTHING = "–"
CHART_NOTE = "Blue ground: sizes within 5 % of the least cost. Grey: sizes that no fitted run has."
STATIC_NOTE = "This is the study's own question; where scripts are allowed, sliders ask others."
SHAPE = ("A", "B", "E", "alpha", "beta", "k")


@dataclass(frozen=True, kw_only=True)
class Control:
    """One slider with its number field."""

    name: str
    label: str
    hint: str
    log: bool
    low: float
    high: float
    start: float | None
    """None: nothing is named, and the slider's lowest place says so."""
    percent: bool = False


def payload(study: Study) -> dict[str, Any] | None:
    """What the script needs, as JSON values; None where there is no decision to make anew."""
    if study.fit is None or study.lifetime is None:
        return None
    fit, lifetime = study.fit, study.lifetime
    unique_tokens = _unique_tokens(study)
    law = surface(get_law(fit.law), unique_tokens)
    base = _base(lifetime.costs)
    range_ = fit.fitted_range
    spans = ("n_params", "n_tokens", "tokens_per_param", "n_times_d", "loss")
    return {
        "shape": _shapes(law, law.as_vector(fit.params)[None], unique_tokens)[0],
        "draws": [] if fit.draws_KP is None else _shapes(law, _thinned(fit.draws_KP), unique_tokens, digits=10),
        "costs": {"train": base.train, "serve": base.serve},
        "unit": lifetime.costs.unit,
        "range": {name: [getattr(range_, name).lo, getattr(range_, name).hi] for name in spans}
        | {"residual_sd": fit.residual_sd if math.isfinite(fit.residual_sd) else 0.0},
        "controls": [
            {"name": one.name, "log": one.log, "low": one.low, "high": one.high, "start": one.start}
            for one in _controls(study, base)
        ],
    }


def panel(study: Study) -> Html:
    """The controls, hidden until the script shows them, and the answer to the study's own question."""
    if study.fit is None or study.lifetime is None:
        return missing(study, "lifetime")
    lifetime = study.lifetime
    controls = [_control(control) for control in _controls(study, _base(lifetime.costs))]
    sentence, answer = _answer(lifetime, study.fit, _unique_tokens(study))
    words = (
        f"The fitted {study.fit.law} law and the study's costs ({lifetime.costs.source}; {lifetime.costs.train.rule}; "
        f"serving: {lifetime.costs.serve.rule}). Both models reach the target loss. {counting_words(study)}"
    )
    unique_tokens = _unique_tokens(study)
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
            element("div", *controls, class_="controls", hidden="hidden", role="group", aria_label="Assumptions"),
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


@dataclass(frozen=True, kw_only=True)
class _Base:
    """Costs of a token at a price of 1, utilisations of 1 and no multiplier, with what the study itself put in."""

    train: dict[str, float]
    serve: dict[str, float]
    price: float | None
    """USD an hour; None where the study named none."""
    train_utilisation: float
    serve_utilisation: float
    multiplier: float


def _base(costs: Costs) -> _Base:
    used = costs.used
    train_utilisation = used.get("train_utilisation", 1.0)
    serve_utilisation = _serve_utilisation(used)
    multiplier = used.get("quantisation", 1.0)
    price = used.get("price_per_hour") if costs.unit == "USD" else None
    scale = 1.0 if price is None else 1.0 / price
    return _Base(
        train=_scaled(costs.train, scale * train_utilisation),
        serve=_scaled(costs.serve, scale * serve_utilisation / multiplier),
        price=price,
        train_utilisation=train_utilisation,
        serve_utilisation=serve_utilisation,
        multiplier=multiplier,
    )


def _serve_utilisation(used: dict[str, float]) -> float:
    """Of prompt and output together: FLOPs add up over time, so it is their harmonic mean."""
    share = used.get("prompt_share", 0.0)
    parts = [(share, used.get("prefill_utilisation")), (1 - share, used.get("decode_utilisation"))]
    if any(utilisation is None and weight > 0 for weight, utilisation in parts):
        return 1.0
    return 1.0 / sum(weight / utilisation for weight, utilisation in parts if utilisation)


def _scaled(cost: TokenCost, factor: float) -> dict[str, float]:
    return {"intercept": cost.intercept * factor, "slope": cost.slope * factor, "exponent": cost.exponent}


def _shapes(law: Law, params_KP: Array, unique_tokens: float, *, digits: int = 17) -> list[dict[str, float]]:
    """Power sums by field; where data run out, with what repetition is worth, infinite bounds left out."""
    fields = law.shape(params_KP)._asdict()
    if math.isfinite(unique_tokens):
        fields |= law.repetition(params_KP, unique_tokens)._asdict()
    columns = {name: np.broadcast_to(values, len(params_KP)) for name, values in fields.items()}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    # A draw whose amplitude ran past what a double holds has no place in JSON, and none in an answer.
    return [
        {name: float(f"{value:.{digits}g}") for name, value in row.items() if math.isfinite(value)}
        for row in rows
        if all(math.isfinite(row[name]) for name in SHAPE)
    ]


def _thinned(draws_KP: Array) -> Array:
    if len(draws_KP) <= MOST_DRAWS:
        return draws_KP
    picked = np.linspace(0, len(draws_KP) - 1, MOST_DRAWS).round().astype(int)
    return np.asarray(draws_KP[picked], dtype=np.float64)


def _controls(study: Study, base: _Base) -> list[Control]:
    lifetime, fit = study.lifetime, study.fit
    assert lifetime is not None
    assert fit is not None
    unit = lifetime.costs.unit
    device = "core" if unit == "core-seconds" else "GPU"
    demand = lifetime.demand_tokens or float(lifetime.demand_tokens_G[len(lifetime.demand_tokens_G) // 2])
    low_loss, high_loss = _losses(study, fit, lifetime)
    whole = {
        "FLOPs": "100 %: FLOPs as counted",
        "USD": "share of the peak that is reached" if lifetime.costs.source == "flops" else "100 %: as measured",
    }.get(unit, "100 %: as measured")
    controls = [
        Control(
            name="demand",
            label="demand (tokens served)",
            hint="over the model's life",
            log=True,
            low=demand * DEMAND_REACH[0],
            high=demand * DEMAND_REACH[1],
            start=lifetime.demand_tokens,
        ),
        Control(
            name="target",
            label="target loss (nats a token)",
            hint="that the model must reach",
            log=False,
            low=low_loss,
            high=high_loss,
            start=lifetime.target_loss,
        ),
        Control(
            name="trainUtilisation",
            label="training utilisation (%)",
            hint=whole,
            log=True,
            low=0.01,
            high=1.0,
            start=base.train_utilisation,
            percent=True,
        ),
        Control(
            name="serveUtilisation",
            label="serving utilisation (%)",
            hint=whole,
            log=True,
            low=0.001,
            high=1.0,
            start=base.serve_utilisation,
            percent=True,
        ),
        Control(
            name="serveMultiplier",
            label="serving cost (times)",
            hint="0.5: quantised, or hardware at half the price",
            log=True,
            low=0.05,
            high=20.0,
            start=base.multiplier,
        ),
        Control(
            name="price",
            label=f"price (USD a {device}-hour)",
            hint="scales every cost alike" if base.price else f"scales every cost alike; none: costs in {unit}",
            log=True,
            low=0.001,
            high=100.0,
            start=base.price,
        ),
    ]
    if unit == "FLOPs":
        peak = Control(
            name="peak",
            label="peak (TFLOP/s of a GPU)",
            hint="at the training precision; dollars need it too",
            log=True,
            low=1.0,
            high=10_000.0,
            start=None,
        )
        controls.append(peak)
    return controls


def _losses(study: Study, fit: Fit, lifetime: Lifetime) -> tuple[float, float]:
    """From the law's best far beyond the fitted compute to the worst fitted run."""
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    cost = study.train_flops
    flops = BEYOND * fit.fitted_range.n_times_d.hi * cost.slope
    best = float(law.predict(params, *law.compute_optimum(params, flops, cost.slope, 1.0)))
    return min(best, lifetime.target_loss), max(fit.fitted_range.loss.hi, lifetime.target_loss)


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


def _unique_tokens(study: Study) -> float:
    """That the study's own question names; infinite where nothing repeats."""
    asked = study.recommendation.question.unique_tokens if study.recommendation else None
    return math.inf if asked is None else asked


def _answer(lifetime: Lifetime, fit: Fit, unique_tokens: float) -> tuple[Html, Html]:
    """Fields that the script fills anew; what stands here is the study's own answer."""
    costs = lifetime.costs
    unit: Unit = "power" if costs.unit == "FLOPs" else "count"
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
        ("95 % of N (sampling alone)", "own-ci", _span(ci95.get("n_params"), "count")),
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


def _span(interval: Interval | None, unit: Unit) -> str:
    if interval is None:
        return NOTHING
    hi = "∞" if math.isinf(interval.hi) else format_number(interval.hi, unit)
    return f"{format_number(interval.lo, unit)} to {hi}"


def _ground(outside: tuple[str, ...]) -> str:
    return f"extrapolated: {'; '.join(outside)}" if outside else "inside"
