"""Designs: parts of `budgets`, their union, and how a plan calls them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from llama.accounting import count_parameters, training_flops_per_token
from llama.errors import UserError
from sweeps.designs.budgets import Budgets, ByHand
from sweeps.designs.design import Design
from sweeps.designs.spec import SweepSpec
from sweeps.hardware.calibration import Calibration
from sweeps.planning.table import render
from sweeps.yaml_lines import parse_record
from tests.sweeps.examples import SWEEP, design, plan_on_cpus, sweep

HORIZON = {"flops": 4e11}
UNION: list[dict[str, Any]] = [
    {"flops": [1e11, 2e11, 4e11]},
    {"tokens_per_parameter": [20.0, 40.0], "sizes": ["w16"]},
    {
        "cells": [
            {"size": "w32", "tokens": 1_000_000, "seed": 5},
            {"size": "w16", "tokens": 600_000, "lr_multiplier": 2.0},
        ]
    },
]


def union(parts: Any, **changes: Any) -> Design:
    return design(budgets=parts, **{"recipe__reference_budget": HORIZON, **changes})


def keys(found: Design) -> dict[str, str]:
    return {run.config.key: run.record.name for run in found.runs}


def test_the_parts_of_a_union_share_a_sizes_trunk():
    found = union(UNION)
    names = [run.record.name for run in found.runs]
    assert names == [
        *("w16-trunk-s0", "w16-R20-s0", "w16-C1e11-s0", "w16-R40-s0", "w16-C2e11-s0", "w16-C4e11-s0"),
        *("w16-lr2-trunk-s0", "w16-lr2-D6e5-s0"),
        *("w32-trunk-s0", "w32-C1e11-s0", "w32-C2e11-s0", "w32-C4e11-s0"),
        *("w32-trunk-s5", "w32-D1e6-s5"),
    ]
    trunk = found.runs[0].record.key
    assert {run.record.trunk for run in found.runs[1:6]} == {trunk}
    assert len([segment for segment in found.segments if segment.run_key == trunk]) == 5
    by_name = {run.record.name: run for run in found.runs}
    assert by_name["w16-R20-s0"].config.tokens == pytest.approx(20 * 23_120, abs=512)
    assert by_name["w16-lr2-D6e5-s0"].config.recipe.peak_lr == 2 * by_name["w16-R20-s0"].config.recipe.peak_lr


def test_a_block_of_its_own_has_the_keys_that_it_had_before_there_were_parts():
    block = SWEEP["budgets"]
    assert keys(union([block])) == keys(design()) == keys(union(block))
    assert keys(union([*UNION, block])) == keys(union(UNION))


def test_a_spec_without_parts_keeps_its_digest():
    """Pinned: MLflow and the sweep's index know a sweep by it."""
    assert sweep().digest == "88a81f73d9af01a7f3721dabf6c9e4b281e22bd23eac36ff47ea4c617673cc39"
    assert sweep(budgets=[SWEEP["budgets"]]).digest != sweep().digest


def test_a_run_of_two_parts_is_trained_once_and_called_by_its_compute():
    flops_per_token = training_flops_per_token(design().models["w16"])
    tokens = round(2e11 / flops_per_token)
    parts = [
        {"cells": [{"size": "w16", "tokens": tokens}, {"size": "w16", "tokens": tokens, "seed": 1}]},
        {"tokens": [tokens], "sizes": ["w16"]},
        {"flops": [2e11]},
    ]
    found = union(parts)
    finals = [run for run in found.runs if run.size == "w16" and not run.record.is_trunk]
    assert [(run.record.name, run.record.flops_budget, run.parts) for run in finals] == [
        ("w16-C2e11-s0", 2e11, (0, 1, 2)),
        ("w16-C2e11-s1", 2e11, (0,)),
    ]


def test_what_one_part_leaves_out_another_may_run():
    limited = {"flops": [4e11], "max_tokens_per_parameter": 100.0}
    assert [cell.name for cell in union([limited]).left_out] == ["w16-C4e11"]
    found = union([limited, {"flops": [4e11], "sizes": ["w16"]}])
    assert found.left_out == []
    assert {run.record.name: run.parts for run in found.runs}["w16-C4e11-s0"] == (1,)


def test_shapes_and_released_sizes_are_named_by_label():
    shapes = [
        {"name": "wide", "d_model": 64, "n_layers": 2, "n_heads": 2},
        {"d_model": 64, "n_layers": 4, "n_heads": 2},
    ]
    found = union(
        [
            {"tokens": [1_000_000]},
            {"tokens": [2_000_000], "sizes": ["wide"]},
            {"cells": [{"size": "w64L4", "tokens": 3_000_000}]},
        ],
        ladder__widths=None,
        ladder__shapes=shapes,
        recipe__reference_budget=2_000_000,
        seeds={"extra": [{"seeds": [3], "sizes": ["w64L4"], "budgets": [3e6]}]},
    )
    assert [run.record.name for run in found.runs if not run.record.is_trunk] == [
        *("wide-D1e6-s0", "wide-D2e6-s0", "w64L4-D1e6-s0", "w64L4-D3e6-s0", "w64L4-D3e6-s3"),
    ]


def test_within_one_part_two_budgets_must_not_come_to_one_run():
    with pytest.raises(UserError, match=r"^budgets\[1\]\.flops: 1e\+11 and 1.0001e\+11 both come to 706 steps"):
        union([{"tokens": [1_000_000]}, {"flops": [1e11, 1.0001e11]}])
    with pytest.raises(UserError, match=r"^budgets\.cells: 1e\+06 and 1.00001e\+06 both come to 977 steps"):
        union({"cells": [{"size": "w16", "tokens": 1_000_000}, {"size": "w16", "tokens": 1_000_010}]})


def test_a_bare_horizon_is_in_the_unit_that_the_parts_share():
    stated = union({"tokens": [1_000_000]}, recipe__reference_budget=500_000)
    assert keys(stated) == keys(union({"tokens": [1_000_000]}, recipe__reference_budget={"tokens": 500_000}))
    n_params = count_parameters(stated.models["w16"]).n_params
    found = union({"tokens": [1_000_000]}, recipe__reference_budget={"tokens_per_parameter": 10})
    assert found.runs[0].config.recipe.reference_tokens == 10 * n_params


TEXT = """\
name: mine
corpus: {domains: {code: {stdlib: code, weight: 1}}}
ladder: {widths: [16, 32], context_length: 128}
evaluation: {validation_tokens: 65_536}
recipe: {name: inverse_width}
budgets:
"""


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ("  - {flops: [1e11]}\n  - {flops: [-1]}", "line 8: budgets[1].flops[0]: found -1; a number above 0 is right"),
        ("  - {flop: [1e11]}", "line 7: budgets[0].flop: unknown key; did you mean 'flops'?"),
        ("  - {tokens: [1], flops: [1]}", "line 7: budgets[0]: exactly one of flops, tokens, tokens_per_parameter is"),
        ("  - {flops: [1e11], sizes: [w17]}", "line 7: budgets[0].sizes[0]: found 'w17'; one of w16, w32 is right"),
        ("  - {flops: [1e11], sizes: [w16, w16]}", "line 7: budgets[0].sizes: size w16 stands twice"),
        (
            "  - {flops: [1e11], by_width: {20: [1e9]}}",
            "line 7: budgets[0].by_width[20]: found width 20; one of 16, 32",
        ),
        ("  cells:\n    - {size: w33, tokens: 5}", "line 8: budgets.cells[0].size: found 'w33'; one of w16, w32 is"),
        ("  cells:\n    - {size: w16}", "line 8: budgets.cells[0].tokens: this key is missing"),
        ("  cells:\n    - {size: w16, tokens: 1.5}", "line 8: budgets.cells[0].tokens: found 1.5; a whole number"),
        (
            "  cells:\n    - {size: w16, tokens: 5, seed: -1}",
            "line 8: budgets.cells[0].seed: found -1; a number from 0",
        ),
        ("  cells:\n    - {size: w16, tokens: 5, lr: 1}", "line 8: budgets.cells[0].lr: unknown key"),
        (
            "  cells:\n    - {size: w16, tokens: 5}\n    - {size: w16, tokens: 5}",
            "line 9: budgets.cells[1]: the same as cells[0]",
        ),
        ("  cells: []", "line 7: budgets.cells: found an empty list; a list of at least 1 is right"),
        ("  []", "line 6: budgets: found an empty list; a list of at least 1 is right"),
        ("  - 5", "line 7: budgets[0]: found 5; a block of keys is right"),
        ("  5", "line 6: budgets: found 5; a block of keys is right"),
    ],
)
def test_a_mistake_in_a_part_is_named_with_its_line(budgets, message):
    with pytest.raises(UserError) as error:
        parse_record(TEXT + budgets + "\n", SweepSpec, source="my.yaml")
    assert f"my.yaml, {message}" in str(error.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("4e11", "found 4e+11, but budgets are in flops and tokens: say its unit, as in {flops: 4e+11}"),
        (
            "{flops: 4e11, tokens: 5}",
            "exactly one of flops, tokens, tokens_per_parameter is right; found flops and tok",
        ),
        ("-1", "found -1; a number above 0 is right"),
        ("{flops: -1}", "found -1; a number above 0 is right"),
        ("soon", "found 'soon' (text); a number is right"),
    ],
)
def test_a_horizon_needs_a_unit_where_parts_have_several(reference, message):
    text = TEXT.replace("inverse_width", f"inverse_width, reference_budget: {reference}")
    with pytest.raises(UserError) as error:
        parse_record(text + "  - {flops: [1e11]}\n  - {tokens: [5e6]}\n", SweepSpec, source="my.yaml")
    assert "line 5: recipe.reference_budget" in str(error.value)
    assert message in str(error.value)


def test_the_plan_names_the_designs_and_counts_each_part():
    found = union([*UNION, {"flops": [4e11], "max_tokens_per_parameter": 100.0}])
    plan = plan_on_cpus(found, Calibration(points=()))
    assert [(p.design, p.runs, p.shared_runs, p.left_out) for p in plan.parts] == [
        *(("isoflop", 6, 1, 0), ("ladder", 2, 0, 0), ("by_hand", 2, 0, 0), ("isoflop", 1, 1, 0)),
    ]
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(plan))
    text = console.export_text()
    for words in (
        "isoFLOP profiles: 2 sizes at 1e+11 to 4e+11 FLOPs (3 budgets)",
        "ladder of tokens a parameter: 1 size at 20 to 40 tokens a parameter",
        "cells by hand: 2 at 2 sizes",
        "isoFLOP profiles, ladder of tokens a parameter and cells by hand; every run a cooldown branch off its size's WSD",
    ):
        assert words in text
    cosine = union(SWEEP["budgets"], recipe={"name": "inverse_width", "schedule": "cosine"})
    plan = plan_on_cpus(cosine, Calibration(points=()))
    assert plan.design == "isoFLOP profiles; every run from scratch on a cosine of its own length"


SIZES = ("w16", "w24", "w32")
some_sizes = st.none() | st.lists(st.sampled_from(SIZES), min_size=1, max_size=3, unique=True)


def block(unit: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    budgets = st.lists(values, min_size=1, max_size=3, unique=True)
    return st.builds(lambda values, sizes: {unit: values} | ({"sizes": sizes} if sizes else {}), budgets, some_sizes)


by_hand = st.lists(
    st.fixed_dictionaries(
        {"size": st.sampled_from(SIZES), "tokens": st.integers(1, 4).map(lambda k: 500_000 * k)},
        optional={"seed": st.integers(0, 3), "lr_multiplier": st.sampled_from([0.5, 1.0, 2.0])},
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda cell: tuple(sorted(cell.items())),
).map(lambda cells: {"cells": cells})
part = st.one_of(
    block("flops", st.integers(0, 3).map(lambda k: 1e11 * 2**k)),
    block("tokens", st.integers(1, 4).map(lambda k: 500_000 * k)),
    block("tokens_per_parameter", st.sampled_from([10.0, 20.0, 40.0])),
    by_hand,
)


@given(
    parts=st.lists(part, min_size=1, max_size=4),
    more=part,
    schedule=st.sampled_from(["wsd", "cosine"]),
    seed=st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_a_union_is_the_union_of_its_parts_runs(parts, more, schedule, seed):
    recipe = {"name": "inverse_width", "schedule": schedule, "lr_multipliers": [1.0, 2.0], "warmup_tokens": 1024}
    if schedule == "wsd":
        recipe["reference_budget"] = HORIZON

    def made(budgets: Any) -> Design:
        return design(
            budgets=budgets,
            recipe=recipe,
            ladder__widths=[16, 24, 32],
            seeds={"base": [0, 1], "extra": [{"seeds": [2], "sizes": ["w24"]}]},
        )

    whole = made(parts)
    assert set(keys(whole)) == set().union(*(keys(made([single])) for single in parts))
    assert len(keys(whole)) == len(whole.runs) == len({run.record.name for run in whole.runs})
    assert len({segment.id for segment in whole.segments}) == len(whole.segments)

    shuffled = seed.sample(parts, len(parts))
    other = made(shuffled)
    assert [run.record for run in other.runs] == [run.record for run in whole.runs]
    assert other.segments == whole.segments

    assert set(keys(whole)) <= set(keys(made([*parts, more])))
    for place, single in enumerate(parts):
        wanted = {run.config.key for run in whole.runs if place in run.parts}
        assert wanted == {run.config.key for run in made([single]).runs if not run.record.is_trunk}


def test_parts_are_what_the_yaml_says():
    spec = sweep(budgets=UNION, recipe__reference_budget=HORIZON)
    assert [type(part) for part in spec.parts] == [Budgets, Budgets, ByHand]
    assert SweepSpec.model_validate(spec.model_dump(exclude_none=True)) == spec
