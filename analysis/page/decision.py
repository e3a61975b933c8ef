"""What the decision panel evaluates in the page: the law, its draws, the costs and the sliders' ranges.

The page carries the fitted law as a power sum, a thinned set of its bootstrap draws and the costs of a token. The script
(`decision.js` for the mathematics, `panel.js` for the controls) decides anew for every demand, target loss, price and
utilisation, in the fields of `analysis.page.panel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.decisions.search import surface
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.optima.optimum import LOSS_TOLERANCE
from analysis.results import Array, Costs, Fit, Lifetime, Study, TokenCost

#: Draws that the page carries, evenly picked: the interval's ends move by less than its width tells.
MOST_DRAWS = 200
#: How far beyond the study's own demand the slider reaches, as factors.
DEMAND_REACH = (1e-4, 1e4)
#: The least target loss is the law's best at this many times the largest fitted compute.
BEYOND = 100.0
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
    unique_tokens = unique_tokens_of(study)
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
        | {"loss_tolerance": LOSS_TOLERANCE},
        "controls": [
            {"name": one.name, "log": one.log, "low": one.low, "high": one.high, "start": one.start}
            for one in controls(study)
        ],
    }


@dataclass(frozen=True, kw_only=True)
class _Base:
    """Costs of a token at a price of 1, utilisations of 1 and no multiplier, with what the study itself put in."""

    train: dict[str, Any]
    serve: dict[str, Any]
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


def _scaled(cost: TokenCost, factor: float) -> dict[str, Any]:
    scaled = {"intercept": cost.intercept * factor, "slope": cost.slope * factor, "exponent": cost.exponent}
    return scaled if cost.bend is None else {**scaled, "bend": cost.bend._asdict()}


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


def controls(study: Study) -> list[Control]:
    """The sliders, each starting at what the study itself put in."""
    lifetime, fit = study.lifetime, study.fit
    assert lifetime is not None
    assert fit is not None
    base, unit = _base(lifetime.costs), lifetime.costs.unit
    device = "core" if unit == "core-seconds" else "GPU"
    demand = lifetime.demand_tokens or float(lifetime.demand_tokens_G[len(lifetime.demand_tokens_G) // 2])
    low_loss, high_loss = _losses(fit, lifetime)
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


def _losses(fit: Fit, lifetime: Lifetime) -> tuple[float, float]:
    """From the law's best far beyond the fitted compute to the worst fitted run."""
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    n_times_d = BEYOND * fit.fitted_range.n_times_d.hi
    best = float(law.predict(params, *law.compute_optimum(params, n_times_d, slope=1.0)))
    return min(best, lifetime.target_loss), max(fit.fitted_range.loss.hi, lifetime.target_loss)


def unique_tokens_of(study: Study) -> float:
    """That the study's own question names; infinite where nothing repeats."""
    asked = study.recommendation.question.unique_tokens if study.recommendation else None
    return math.inf if asked is None else asked
