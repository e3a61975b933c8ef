"""The panel's mathematics in JavaScript against Python's, and what the page carries for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from analysis.decisions.lifetime import break_even_demand
from analysis.decisions.search import cheapest, surface, total_cost, within
from analysis.intervals import ends
from analysis.laws import get_law, law_names
from analysis.laws.base import Law, PowerSum
from analysis.optima.optimum import outside
from analysis.page import decision
from analysis.page.panel import panel
from analysis.plots.style import format_number
from analysis.results import Costs, Study, TokenCost
from analysis.results.costs import Bend
from tests.analysis.plots.studies import LAW, bare_study, make_study

NODE = shutil.which("node")
#: Where every test must run, as before anything lands, these fail without node rather than pass unseen.
needs_node = pytest.mark.skipif(
    NODE is None and not os.environ.get("ISOLOSS_RUN_EVERY_TEST"), reason="no node on this machine"
)
TOLERANCE = 1e-6


class AnyPowerSum(type(get_law("chinchilla"))):  # type: ignore[misc]
    """A law whose parameters are the power sum itself, k included, whichever laws there are."""

    has_power = True

    def shape(self, params_KP: np.ndarray) -> PowerSum:
        return PowerSum(*np.moveaxis(params_KP, -1, 0))


def in_node(script: str, value: Any) -> Any:
    """What `script` writes of `input`, with the page's `decision` at hand."""
    assert NODE is not None, "no node on this machine, and ISOLOSS_RUN_EVERY_TEST is set"
    path = files("analysis.page").joinpath("decision.js")
    code = (
        f"const decision = require({json.dumps(str(path))});"
        "const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        f"process.stdout.write(JSON.stringify((() => {{ {script} }})()));"
    )
    done = subprocess.run([NODE, "-e", code], input=json.dumps(value), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def token_cost(intercept: float, slope: float, exponent: float, bend: dict[str, Any] | None = None) -> TokenCost:
    nothing = np.empty(0)
    return TokenCost(
        unit="core-seconds",
        intercept=intercept,
        slope=slope,
        exponent=exponent,
        source="measured",
        rule="",
        max_rel_error=0.0,
        n_params_G=nothing,
        measured_G=nothing,
        bend=None if bend is None else Bend(**bend),
    )


def random_cases(count: int) -> list[dict[str, Any]]:
    """Laws from a quickstart's to a large model's, costs with and without overhead and bend, demands from none to a flood."""
    # Half the best size is no case near the smallest that reaches the loss, where tokens blow up what a flat minimum leaves.
    rng, bends = np.random.default_rng(7), np.random.default_rng(9)
    cases = []
    for _ in range(count):
        shape = {
            "A": float(10 ** rng.uniform(1.5, 3.5)),
            "B": float(10 ** rng.uniform(1.5, 3.5)),
            "E": float(rng.uniform(0.0, 2.0)),
            "alpha": float(rng.uniform(0.2, 0.8)),
            "beta": float(rng.uniform(0.2, 0.8)),
            "k": float(rng.choice([1.0, rng.uniform(0.6, 1.6)])),
        }
        slope = 10 ** rng.uniform(-12, 1)
        cost: dict[str, Any] = {
            "intercept": float(rng.choice([0.0, slope * 1e5])),
            "slope": slope,
            "exponent": float(rng.choice([1.0, 0.93])),
        }
        serve = {key: value * (1.0 if key == "exponent" else 0.4) for key, value in cost.items()}
        if bends.random() < 0.4:
            cost["bend"] = serve["bend"] = {
                "level": 6.0,
                "share": float(10 ** bends.uniform(0, 3)),
                "falls": float(bends.uniform(1 / 3, 2 / 3)),
                "side": int(bends.choice([1, -1])),
            }
        cases.append(
            {
                "shape": shape,
                "costs": {"train": cost, "serve": serve},
                "target": shape["E"] + float(rng.uniform(0.2, 1.5)) ** shape["k"],
                "demand": float(rng.choice([0.0, 10 ** rng.uniform(6, 14)])),
            }
        )
    return cases


def python_costs(case: dict[str, Any]) -> Costs:
    train, serve = (token_cost(**case["costs"][name]) for name in ("train", "serve"))
    return Costs(unit="core-seconds", source="measured", train=train, serve=serve)


@needs_node
def test_the_page_decides_as_the_analysis_does() -> None:
    cases = random_cases(60)
    found = in_node(
        """return input.map(({ shape, costs, target, demand }) => {
          const best = decision.cheapest(shape, costs, target, demand);
          const toTrain = decision.cheapest(shape, costs, target, 0);
          return { ...best, loss: decision.loss(shape, best.n, best.d),
            near: decision.within(shape, costs, target, demand, best, 0.05),
            even: decision.breakEven(costs, { n: best.n / 2, d: decision.tokensForLoss(shape, best.n / 2, target) }, toTrain) };
        })""",
        cases,
    )
    law: Law = AnyPowerSum()
    for case, js in zip(cases, found, strict=True):
        params, costs = np.array(list(case["shape"].values())), python_costs(case)
        target, demand = case["target"], case["demand"]
        n, d = cheapest(law, params, costs, target, demand)
        assert js["n"] == pytest.approx(float(n), rel=TOLERANCE)
        assert js["d"] == pytest.approx(float(d), rel=TOLERANCE)
        assert js["cost"] == pytest.approx(float(total_cost(costs, n, d, demand)), rel=TOLERANCE)
        assert js["loss"] == pytest.approx(target, rel=TOLERANCE)
        assert js["near"] == pytest.approx(within(law, params, costs, target, demand, (n, d), 0.05), rel=TOLERANCE)
        small, large = float(n) / 2, cheapest(law, params, costs, target, 0.0)
        tokens = float(law.tokens_for_loss(params, small, target))
        even = break_even_demand(costs, (small, tokens), (float(large[0]), float(large[1])))
        # JSON has no infinity: null is "never" in both.
        assert js["even"] == (None if even is None else pytest.approx(even, rel=TOLERANCE))


@needs_node
def test_the_page_opens_with_the_study_s_own_answer() -> None:
    study = make_study()
    assert study.fit is not None
    assert study.lifetime is not None
    data = decision.payload(study)
    assert data is not None
    starts = {one["name"]: one["start"] for one in data["controls"]}
    js = in_node("return decision.decide(input, { ...input.state, price: 1 })", {**data, "state": starts})
    law = get_law(study.fit.law)
    vector, costs = law.as_vector(study.fit.params), study.lifetime.costs
    target, demand = study.lifetime.target_loss, study.lifetime.demand_tokens
    for key, tokens in (("toTrain", 0.0), ("toOwn", demand)):
        n, d = cheapest(law, vector, costs, target, tokens)
        assert (js[key]["n"], js[key]["d"]) == pytest.approx((float(n), float(d)), rel=TOLERANCE)
    assert study.fit.draws_KP is not None
    n_K, d_K = cheapest(law, study.fit.draws_KP, costs, target, demand)
    assert js["ci95"]["n"] == pytest.approx([float(end) for end in ends(n_K)], rel=TOLERANCE)
    assert bool(js["outside"]) == bool(outside(study.fit, js["toOwn"]["n"], js["toOwn"]["d"]))
    assert d_K.shape == (200,)


#: Parameters of each law near the studies' own scale.
LAWS: dict[str, dict[str, float]] = {
    "chinchilla": LAW,
    "overtraining": {"E": 1.9, "a": 60.0, "b": 40.0, "eta": 0.24},
    "data_constrained": {"A": 300.0, "B": 500.0, "E": 1.9, "alpha": 0.48, "R_D_star": 15.4, "R_N_star": 5.3},
    "skaling": {**LAW, "k": 1.2},
    "kaplan": {"N_c": 3e6, "D_c": 8e8, "alpha_N": 0.4, "alpha_D": 0.3},
}


@needs_node
@pytest.mark.parametrize("name", law_names())
def test_the_panel_takes_every_law(name: str) -> None:
    study = make_study()
    assert study.fit is not None
    assert study.lifetime is not None
    law = get_law(name)
    vector = law.as_vector(LAWS[name])
    target = float(law.predict(vector, 5e4, 3e6))
    fit = replace(study.fit, law=name, params=LAWS[name], draws_KP=np.tile(vector, (3, 1)))
    lifetime = replace(study.lifetime, target_loss=target)
    data = decision.payload(replace(study, fit=fit, lifetime=lifetime))
    assert data is not None
    n, d = cheapest(law, vector, lifetime.costs, target, lifetime.demand_tokens)
    starts = {one["name"]: one["start"] for one in data["controls"]}
    js = in_node("return decision.decide(input, { ...input.state, price: 1 })", {**data, "state": starts})
    assert (js["toOwn"]["n"], js["toOwn"]["d"]) == pytest.approx((float(n), float(d)), rel=TOLERANCE)
    assert js["ci95"]["n"] == pytest.approx([float(n)] * 2, rel=TOLERANCE)


@needs_node
@pytest.mark.parametrize("name", ["chinchilla", "data_constrained", "skaling"])
def test_the_panel_counts_repeated_tokens_as_the_recommendation_does(name: str) -> None:
    study = make_study()
    assert study.fit is not None
    assert study.lifetime is not None
    assert study.recommendation is not None
    unique_tokens = 2e6
    law = surface(get_law(name), unique_tokens)
    vector = law.as_vector(LAWS[name])
    target = float(law.predict(vector, 5e4, 5e6, unique_tokens))
    fit = replace(study.fit, law=name, params=LAWS[name], draws_KP=np.tile(vector, (3, 1)))
    asked = replace(study.recommendation.question, unique_tokens=unique_tokens)
    repeating = replace(
        study,
        fit=fit,
        lifetime=replace(study.lifetime, target_loss=target),
        recommendation=replace(study.recommendation, question=asked),
    )
    data = decision.payload(repeating)
    assert data is not None
    costs = study.lifetime.costs
    script = "return input.demands.map((d) => decision.cheapest(input.shape, input.costs, input.target, d))"
    demands = [0.0, 1e6, 1e8, 1e10]
    found = in_node(script, {**data, "demands": demands, "target": target})
    for demand, js in zip(demands, found, strict=True):
        n, d = cheapest(law, vector, costs, target, demand, unique_tokens=unique_tokens)
        assert (js["n"], js["d"]) == pytest.approx((float(n), float(d)), rel=TOLERANCE)
    assert found[-1]["d"] > unique_tokens
    assert "2M unique tokens" in panel(repeating)
    # Less than this no number of repetitions reaches.
    most = in_node(
        "return decision.smallestSize(input.shape, input.target)", {**data, "target": LAWS[name].get("E", 0.0) + 1e-3}
    )
    assert most is None


@needs_node
def test_an_unreachable_loss_has_no_answer_and_far_models_are_called_extrapolated() -> None:
    data = decision.payload(make_study())
    assert data is not None
    state = {"demand": 1e7, "target": LAW["E"], "price": 1, **dict.fromkeys(MULTIPLIERS, 1)}
    assert in_node("return decision.decide(input, input.state)", {**data, "state": state}) is None
    far = {**state, "target": 2.0}
    found = in_node("return decision.decide(input, input.state)", {**data, "state": far})
    assert set(found["outside"]) == {"N", "D", "compute", "loss"}


MULTIPLIERS = ("trainUtilisation", "serveUtilisation", "serveMultiplier")


@needs_node
def test_cheaper_serving_is_less_demand_and_a_common_price_changes_no_model() -> None:
    data = decision.payload(make_study())
    assert data is not None
    base = {"demand": 1e7, "target": 2.75, "price": 1, **dict.fromkeys(MULTIPLIERS, 1)}
    states = [
        base,
        {**base, "serveMultiplier": 0.5},
        {**base, "demand": 5e6},
        {**base, "serveUtilisation": 0.25, "trainUtilisation": 0.25},
        {**base, "price": 3},
    ]
    found = in_node("return input.states.map((state) => decision.decide(input, state))", {**data, "states": states})
    sizes = [one["toOwn"]["n"] for one in found]
    assert sizes[1] == pytest.approx(sizes[2], rel=TOLERANCE)
    assert sizes[1] > sizes[0]
    assert sizes[3:] == pytest.approx([sizes[0]] * 2, rel=TOLERANCE)
    costs = [one["toOwn"]["cost"] for one in found]
    assert costs[3:] == pytest.approx([4 * costs[0], 3 * costs[0]], rel=TOLERANCE)


@needs_node
def test_numbers_are_written_as_on_the_rest_of_the_page() -> None:
    values = [0, 1, 2.746, 512, 999.96, 39_424, 999_950, 6.738e9, 1.4e12, 3e17, 123_456, 0.31, 2e-5, -0.031, 1e12]
    cases = [(value, unit) for value in values for unit in ("count", "power", "plain", "percent")]
    written = in_node("return input.map(([value, unit]) => decision.words(value, unit))", cases)
    assert written == [format_number(value, unit) for value, unit in cases]  # type: ignore[arg-type]


@needs_node
def test_ticks_lie_inside_and_are_few() -> None:
    ranges = [(2.1e4, 7e5), (10.0, 11.0), (1.0, 1e9), (3e20, 2e23)]
    for (low, high), places in zip(
        ranges, in_node("return input.map(([a, b]) => decision.ticks(a, b))", ranges), strict=True
    ):
        assert all(low <= place <= high for place in places)
        assert 1 <= len(places) <= 9


def test_draws_are_thinned_evenly_and_named_as_shapes() -> None:
    study = make_study()
    assert study.fit is not None
    assert study.fit.draws_KP is not None
    many = np.tile(study.fit.draws_KP, (5, 1))
    data = decision.payload(replace(study, fit=replace(study.fit, draws_KP=many)))
    assert data is not None
    assert len(data["draws"]) == decision.MOST_DRAWS
    assert data["shape"] == {**LAW, "k": 1.0}
    without = decision.payload(replace(study, fit=replace(study.fit, draws_KP=None)))
    assert without is not None
    assert without["draws"] == []


def test_what_json_cannot_hold_stays_off_the_page() -> None:
    study = make_study()
    assert study.fit is not None
    assert study.fit.draws_KP is not None
    draws = study.fit.draws_KP.copy()
    draws[3, 0] = np.inf
    broken = replace(study.fit, draws_KP=draws, residual_sd=float("nan"))
    data = decision.payload(replace(study, fit=broken))
    assert data is not None
    json.dumps(data, allow_nan=False)
    assert len(data["draws"]) == len(draws) - 1


def test_what_the_study_put_into_its_costs_is_where_the_sliders_start() -> None:
    study = make_study()
    assert study.lifetime is not None
    used = {
        "price_per_hour": 2.0,
        "train_utilisation": 0.4,
        "prefill_utilisation": 0.5,
        "decode_utilisation": 0.1,
        "prompt_share": 0.75,
        "quantisation": 0.5,
    }
    costs = replace(study.lifetime.costs, unit="USD", source="flops", used=used)
    data = decision.payload(replace(study, lifetime=replace(study.lifetime, costs=costs)))
    assert data is not None
    starts = {one["name"]: one["start"] for one in data["controls"]}
    assert (starts["price"], starts["trainUtilisation"], starts["serveMultiplier"]) == (2.0, 0.4, 0.5)
    assert starts["serveUtilisation"] == pytest.approx(1 / (0.75 / 0.5 + 0.25 / 0.1))
    # The page's base times what the study used is the study's own cost again.
    train = data["costs"]["train"]["slope"] * starts["price"] / starts["trainUtilisation"]
    serve = data["costs"]["serve"]["slope"] * starts["price"] * starts["serveMultiplier"] / starts["serveUtilisation"]
    assert (train, serve) == pytest.approx((costs.train.slope, costs.serve.slope))


def test_without_a_law_there_is_no_panel() -> None:
    bare: Study = bare_study()
    assert decision.payload(bare) is None
    assert panel(bare) == "no fitted law."
