"""What a plan counts, times and warns of."""

import itertools
import json
import subprocess
import sys

import pytest
from rich.console import Console

from llama.accounting import count_parameters, training_flops_per_token
from llama.memory import training_bytes
from sweeps.designs.design import make_design
from sweeps.hardware.calibration import Calibration, SpeedPoint, TrainedShape
from sweeps.planning.plan import PROCESS_BYTES
from sweeps.planning.records import Plan
from sweeps.planning.table import render
from sweeps.words import duration, human
from tests.sweeps.examples import CPU, FACTS, design, plan_on_cpus, sweep

UNMEASURED = Calibration(points=())


def measured(found, tokens_per_second=1e5):
    shapes = {TrainedShape.of(run.config) for run in found.runs}
    return Calibration(points=tuple(SpeedPoint(shape=s, tokens_per_second=tokens_per_second) for s in shapes))


def codes(plan: Plan) -> list[str]:
    return [warning.code for warning in plan.warnings]


def shown(plan: Plan, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(plan))
    return console.export_text()


def test_counts_are_those_of_the_design():
    found = design(seeds={"base": [0, 1]})
    plan = plan_on_cpus(found, measured(found))
    assert (plan.runs, plan.trunks, plan.segments) == (12, 4, 24)
    assert plan.flops == sum(segment.flops for segment in found.segments) == sum(size.flops for size in plan.sizes)
    assert plan.trained_tokens == sum(size.trained_tokens for size in plan.sizes)
    for size in plan.sizes:
        model = found.models[size.size]
        counts = (size.n_params, size.n_params_non_embedding, size.n_params_matmul)
        assert counts == tuple(count_parameters(model))
        assert size.flops == size.trained_tokens * training_flops_per_token(model)
        assert size.tokens_per_parameter_range[1] == size.tokens_range[1] / size.n_params
    w16 = plan.sizes[0]
    assert w16.tokens_range == (706 * 1024, 2826 * 1024)
    assert w16.device_seconds == pytest.approx(w16.trained_tokens / 1e5)
    kept, before_last = (
        sum(12 * count_parameters(part.config.model).n_params for part in parts)
        for parts in (found.segments, found.runs)
    )
    assert plan.checkpoint_bytes == kept + before_last


def test_memory_is_the_process_and_its_largest_step():
    found = design(recipe__lr_multipliers=[0.5, 1])
    for size in plan_on_cpus(found, UNMEASURED).sizes:
        steps = [
            training_bytes(
                run.config.model,
                batch_sequences=run.config.recipe.batch_sequences,
                micro_batch_sequences=run.config.micro_batch_sequences,
                dtype="float32",
                activation_checkpointing="none",
                device="cpu",
            )
            for run in found.runs
            if run.size == size.size
        ]
        assert size.memory_bytes == PROCESS_BYTES + max(steps)
    checkpointed = plan_on_cpus(design(activation_checkpointing="full"), UNMEASURED)
    assert checkpointed.sizes[-1].memory_bytes < plan_on_cpus(design(), UNMEASURED).sizes[-1].memory_bytes


def test_tokens_and_epochs_of_the_longest_run():
    found = design()
    plan = plan_on_cpus(found, UNMEASURED)
    longest = 2826 * 1024
    by_name = {domain.domain: domain for domain in plan.domains}
    assert by_name["code"].longest_run_tokens == pytest.approx(0.75 * longest, abs=1)
    assert by_name["code"].longest_run_epochs == pytest.approx(0.75 * longest / 8_000_000, rel=0.01)
    assert by_name["prose"].longest_run_epochs == pytest.approx(0.25 * longest / 2_000_000, rel=0.01)
    assert "epochs" not in codes(plan)


def test_more_than_four_epochs_are_warned_of_by_domain():
    facts = FACTS._replace(train_tokens={"code": 8_000_000, "prose": 100_000})
    plan = plan_on_cpus(make_design(sweep(), facts, CPU), UNMEASURED)
    (warning,) = (warning for warning in plan.warnings if warning.code == "epochs")
    assert "domain prose" in warning.message
    assert "100,000 tokens 7.2 times" in warning.message
    assert "Muennighoff" in warning.message


def test_seconds_are_absent_rather_than_guessed():
    found = design()
    plan = plan_on_cpus(found, UNMEASURED)
    assert plan.device_seconds is plan.wall_seconds is plan.sizes[0].device_seconds is None
    assert codes(plan) == ["calibration"]
    near_one_only = Calibration(points=(measured(found).points[0],))
    partly = plan_on_cpus(design(ladder__widths=[16, 256], budgets__flops=[4e12]), near_one_only)
    assert partly.sizes[0].device_seconds is not None
    assert partly.sizes[1].device_seconds is partly.wall_seconds is None


def test_a_broken_cache_is_a_warning():
    plan = plan_on_cpus(design(), Calibration(points=(), problem="the cache is broken"))
    assert [warning.message for warning in plan.warnings] == ["the cache is broken"]


@pytest.mark.parametrize(
    "changes",
    [
        {"ladder__widths": [16]},
        {"budgets": {"tokens_per_parameter": [20.0]}, "recipe__reference_budget": None},
    ],
    ids=str,
)
def test_designs_that_identify_no_law_are_warned_of(changes):
    found = design(**changes)
    assert codes(plan_on_cpus(found, measured(found))) == ["identifiability"]


def test_other_warnings():
    found = design(
        budgets__flops=[1e11, 8e11],
        budgets__min_tokens_per_parameter=30.0,
        ladder__widths=[16, 24, 80],
        recipe__reference_budget=1.5e11,
    )
    plan = plan_on_cpus(found, measured(found))
    assert codes(plan) == ["empty_size", "horizon"]
    assert "no budget is left for w80" in plan.warnings[0].message
    assert [cell.name for cell in plan.left_out] == ["w24-C1e11", "w80-C1e11", "w80-C8e11"]
    found = design(evaluation__validation_tokens=400_000)
    (warning,) = plan_on_cpus(found, measured(found)).warnings
    assert (warning.code, "domain prose has fewer" in warning.message) == ("validation", True)


def test_a_cooldown_that_a_log_point_makes_much_longer_is_warned_of():
    found = design(budgets__flops=[1e11, 3.2e12], recipe__reference_budget=3.2e12)
    (warning,) = [one for one in plan_on_cpus(found, measured(found)).warnings if one.code == "cooldown"]
    branches = [(run.config.steps or 0, run.config.fork_step) for run in found.runs if run.config.fork_step is not None]
    steps, fork_step = max(branches, key=lambda branch: (branch[0] - branch[1]) / branch[0])
    assert f"{steps - fork_step:,} steps instead of {round(0.2 * steps):,}" in warning.message
    usual = design()
    assert "cooldown" not in codes(plan_on_cpus(usual, measured(usual)))


@pytest.mark.parametrize(("slots", "wall"), [(1, 0.8 * 16 + 0.2 * 31), (2, 16.0), (9, 16.0)])
def test_wall_seconds(slots, wall):
    """One size at doubling budgets of 1 to 16 s: all work in a row, or branches beside a trunk that ends with the longest."""
    found = design(ladder__widths=[16], budgets__flops=[1e11 * 2**k for k in range(5)], recipe__reference_budget=1.6e12)
    speed = 1e11 / training_flops_per_token(found.models["w16"])  # 1e11 FLOPs a second
    plan = plan_on_cpus(found, measured(found, speed), slots=slots)
    assert plan.wall_seconds == pytest.approx(wall, rel=2e-3)
    assert plan.device_seconds == pytest.approx(0.8 * 16 + 0.2 * 31, rel=2e-3)
    assert plan.chain_seconds == pytest.approx(16.0, rel=2e-3)


def test_json_holds_the_whole_plan():
    found = design(budgets__min_tokens_per_parameter=3.0)
    plan = plan_on_cpus(found, measured(found))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert json.loads(plan.model_dump_json())["left_out"][0]["name"] == "w32-C1e11"


def test_the_table_fits_a_terminal_and_shows_every_part():
    found = design(budgets__min_tokens_per_parameter=3.0, recipe__lr_multipliers=[0.5, 1, 2])
    text = shown(plan_on_cpus(found, measured(found)), width=90)
    assert "…" not in text
    for part in ("23.1k", "6.74k", "14.8k", "0.008 - 0.032", "723k - 2.89M", "left out  w32-C1e11", "code", "75.0%"):
        assert part in text
    unmeasured = shown(plan_on_cpus(found, UNMEASURED))
    assert "unknown: no measured speed" in unmeasured
    assert "warning   no measured speed near every size" in unmeasured


def test_what_decides_a_step_is_said():
    found = design(activation_checkpointing="selective", micro_batch=4, recipe__skip_sigma=6.0)
    assert (
        "float32, eager, at most 4 sequences at once, selective activation checkpointing, updates beyond 6 sigma"
        in (shown(plan_on_cpus(found, UNMEASURED), width=200))
    )
    compiled = make_design(sweep(), FACTS, CPU._replace(compile_from_flops=0.0))
    assert "float32, compiled" in shown(plan_on_cpus(compiled, UNMEASURED), width=200)


@pytest.mark.parametrize(("gigabytes", "warned"), [(0.6, "2 runs at once of w32"), (0.3, "a run of w32"), (64.0, None)])
def test_a_step_that_does_not_fit_the_memory_is_told(gigabytes, warned):
    plan = plan_on_cpus(design(), UNMEASURED, memory_bytes=int(gigabytes * 1e9))
    messages = [warning.message for warning in plan.warnings if warning.code == "memory"]
    assert len(messages) == (warned is not None)
    assert all(message.startswith(warned) for message in messages)


def test_estimated_times_are_marked():
    found = design(ladder__widths=[16, 24, 32])
    ends = [point for point in measured(found).points if point.shape.model.d_model != 24]
    plan = plan_on_cpus(found, Calibration(points=tuple(ends)))
    assert [size.speed_source for size in plan.sizes] == ["measured", "interpolated", "measured"]
    assert shown(plan).count("~100k") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (42, "42 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18_720, "5 h 12 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (23_120, "23.1k"), (999_700, "1M"), (6_738_415_616, "6.74G"), (1.4e12, "1.4T"), (3e16, "30000T")],
)
def test_human_numbers(value, text):
    assert human(value) == text


def test_a_thousand_runs_are_designed_once_each():
    found = design(
        ladder__widths=list(range(16, 56, 2)),
        budgets__flops=[1e11 * 1.5**k for k in range(10)],
        seeds={"base": list(range(5))},
        recipe__reference_budget=4e12,
    )
    plan = plan_on_cpus(found, measured(found))
    assert plan.runs == 1000
    assert len({run.config.key for run in found.runs}) == 1000 + plan.trunks
    assert len({run.record.name for run in found.runs}) == len(found.runs)


def test_planning_imports_nothing_heavy():
    code = "import sys, sweeps.planning.plan, sweeps.planning.table; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "ray", "mlflow", "scipy", "pandas", "matplotlib", "sentencepiece"}
    assert not heavy & set(itertools.chain(modules))


def test_a_batch_of_no_whole_sequences_and_a_size_that_no_cell_names_are_said():
    cells = [{"size": "w16", "tokens": 10_000_000}]
    plan = plan_on_cpus(
        design(budgets={"cells": cells}, recipe={"name": "inverse_width", "batch_tokens": 1000}), UNMEASURED
    )
    said = {warning.code: warning.message for warning in plan.warnings}
    assert said["batch"] == "recipe.batch_tokens is 1,000: a batch holds whole sequences of 128, so that 1,024 are used"
    assert said["empty_size"] == "no cell of budgets names w32, which has no runs"
    assert not plan.left_out
