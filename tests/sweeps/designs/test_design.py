"""Runs, keys and segments of a sweep."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.accounting import count_parameters, training_flops_per_token
from llama.compilation import COMPILE_FROM_FLOPS
from llama.config import RunConfig
from llama.errors import UserError
from llama.released_sizes import released_size
from sweeps.designs.design import Design, make_design
from sweeps.designs.numerics import resolve_numerics
from sweeps.designs.segments import missing_segments
from tests.sweeps.examples import CPU, FACTS, design, sweep


def keys(found: Design) -> dict[str, str]:
    return {run.record.name: run.config.key for run in found.runs}


def test_keys_are_pinned():
    """A change here means that every stored run of every sweep is trained again: undo it, or raise KEY_VERSION."""
    found = keys(design())
    assert found["w16-trunk-s0"] == "23cf86a416556c3a"
    assert found["w16-C1e11-s0"] == "69abafd729fb2828"
    assert (
        keys(design(recipe={"name": "llama", "batch_tokens": 1024, "warmup_tokens": 10_240}))["w32-C4e11-s0"]
        == "4c06e68af50f65a7"
    )


def test_runs_of_a_wsd_sweep():
    found = design()
    assert list(keys(found)) == [
        f"{size}-{part}-s0" for size in ("w16", "w32") for part in ("trunk", "C1e11", "C2e11", "C4e11")
    ]
    for run in found.runs:
        assert run.record.key == run.config.key
        assert RunConfig.model_validate(run.config.model_dump()) == run.config
        if run.record.is_trunk:
            assert run.config.is_trunk
            continue
        assert run.config.parent == run.record.trunk == run.config.trunk().key
        spent = run.config.tokens * training_flops_per_token(run.config.model)
        half_a_batch = 0.5 * run.config.batch_tokens * training_flops_per_token(run.config.model)
        assert abs(spent - run.record.flops_budget) <= half_a_batch


@pytest.mark.parametrize(
    "changes",
    [
        {"budgets__flops": [1e11, 2e11, 3e11, 4e11, 8e11]},
        {"ladder__widths": [16, 24, 32, 48]},
        {"seeds": {"base": [0, 1], "extra": [{"seeds": [7], "widths": [16]}]}},
        {"recipe__lr_multipliers": [0.5, 1.0]},
        {"held_out": {"largest_size": True}, "inference": None, "name": "other", "resources": {"cpus": 2}},
        {"budgets__min_tokens_per_parameter": 0.01},
    ],
    ids=str,
)
def test_an_enlarged_sweep_keeps_its_keys(changes):
    before, after = keys(design()), keys(design(**changes))
    assert before.items() <= after.items()


def test_without_a_stated_horizon_a_larger_budget_gives_new_keys():
    before = keys(design(recipe__reference_budget=None))
    after = keys(design(recipe__reference_budget=None, budgets__flops=[1e11, 2e11, 4e11, 8e11]))
    assert all(after[name] != key for name, key in before.items())
    assert before == keys(design())  # the stated horizon was the largest budget


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation__validation_tokens": 1024},
        {"corpus__domains__code__weight": 2},
        {"ladder__context_length": 256},
        {"recipe__weight_decay": 0.2},
        {"recipe__lr_multipliers": [2.0]},
    ],
    ids=str,
)
def test_what_changes_numbers_changes_keys(changes):
    assert not set(keys(design()).values()) & set(keys(design(**changes)).values())


def test_another_cooldown_keeps_the_trunks():
    before, after = keys(design()), keys(design(recipe__cooldown_fraction=0.1))
    assert [name for name in before if before[name] == after[name]] == ["w16-trunk-s0", "w32-trunk-s0"]


def test_numerics_and_corpus_are_in_the_keys():
    half = make_design(sweep(), FACTS, CPU._replace(dtype="bfloat16"))
    other_text = make_design(sweep(), FACTS._replace(digest="d" * 64), CPU)
    assert not set(keys(design()).values()) & (set(keys(half).values()) | set(keys(other_text).values()))


def walk(found: Design) -> None:
    """Run the segments as a launcher would, checking that each finds the checkpoint it starts from."""
    checkpoints: dict[str, set[int]] = {}
    done: set[str] = set()
    for segment in found.segments:
        assert set(segment.needs) <= done
        folder = segment.config.parent or segment.run_key
        assert segment.start_step == 0 or segment.start_step in checkpoints[folder]
        assert segment.start_step < segment.end_step
        checkpoints.setdefault(segment.run_key, set()).add(segment.end_step)
        done.add(segment.id)
    assert len(done) == len(found.segments)
    finals = [run for run in found.runs if not run.record.is_trunk]
    assert {segment.run_key for segment in found.segments if segment.ends_run} == {run.config.key for run in finals}
    for run in finals:
        assert run.config.steps in checkpoints[run.config.key]


def test_segments_of_a_trunk_and_its_branches():
    found = design(ladder__widths=[16])
    walk(found)
    trunk, *branches = (run.config for run in found.runs)
    forks = [branch.fork_step for branch in branches]
    trunk_segments = [segment for segment in found.segments if segment.config == trunk]
    assert [(s.start_step, s.end_step) for s in trunk_segments] == list(zip([0, *forks], forks, strict=False))
    for branch, before in zip(branches, trunk_segments, strict=True):
        (own,) = (segment for segment in found.segments if segment.config == branch)
        assert own.needs == (before.id,)
        assert (own.start_step, own.end_step) == (branch.fork_step, branch.steps)
        assert own.config.parent == trunk.key


def test_doubling_budgets_cost_1_2_times_the_longest_run():
    """The field notes' (1 - f) D_max + f sum D_k, with f 0.2: at most 1.2 D_max for doubling budgets."""
    found = design(ladder__widths=[16], budgets__flops=[1e11 * 2**k for k in range(5)], recipe__reference_budget=1.6e12)
    assert sum(segment.flops for segment in found.segments) == pytest.approx(0.8 * 1.6e12 + 0.2 * 3.1e12, rel=1e-3)


def test_cosine_runs_stand_alone():
    found = design(recipe={"name": "inverse_width", "schedule": "cosine"})
    walk(found)
    assert len(found.runs) == len(found.segments) == 6
    for run in found.runs:
        assert run.config.parent is None
        assert run.config.recipe.reference_tokens == pytest.approx(run.config.tokens, abs=run.config.batch_tokens)


def test_every_branch_of_a_trunk_has_the_trunks_horizon():
    found = design(recipe={"name": "step_law", "schedule": "wsd", "batch_tokens": 1024, "warmup_tokens": 10_240})
    for size in ("w16", "w32"):
        configs = [run.config for run in found.runs if run.size == size]
        assert len({(c.recipe.reference_tokens, c.recipe.peak_lr) for c in configs}) == 1
        assert configs[0].recipe.reference_tokens == round(4e11 / training_flops_per_token(configs[0].model))


def test_extra_seeds_take_short_trunks():
    found = design(seeds={"base": [0], "extra": [{"seeds": [1], "widths": [16], "budgets": [1e11]}]})
    walk(found)
    assert [name for name in keys(found) if name.endswith("-s1")] == ["w16-trunk-s1", "w16-C1e11-s1"]
    seed_one = [s for s in found.segments if s.config.seed == 1]
    assert [s.end_step for s in seed_one] == [seed_one[1].start_step, seed_one[1].config.steps]


def test_held_out_runs():
    found = design(held_out={"largest_size": True})
    assert {run.size for run in found.runs if run.record.held_out} == {"w32"}
    assert not any(run.record.held_out for run in found.runs if run.record.is_trunk)
    found = design(held_out={"tokens_per_parameter_above": 60.0})
    assert [run.record.name for run in found.runs if run.record.held_out] == ["w16-C2e11-s0", "w16-C4e11-s0"]


def test_cells_outside_the_limits_are_left_out_with_their_reason():
    found = design(budgets__min_tokens_per_parameter=3.0, budgets__max_tokens_per_parameter=100.0)
    assert [cell.name for cell in found.left_out] == ["w16-C4e11", "w32-C1e11"]
    assert found.left_out[0].reason.endswith("tokens a parameter, above max_tokens_per_parameter 100")
    assert found.left_out[1].reason.endswith("tokens a parameter, below min_tokens_per_parameter 3")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            {"name": "inverse_width", "warmup_tokens": 300_000},
            "the cooldown would start at step 160, the warm-up takes 293",
        ),
        ({"name": "inverse_width", "schedule": "cosine", "warmup_tokens": 110_000}, "the warm-up takes 108, over half"),
        (
            {"name": "inverse_width", "cooldown_min_steps": 300, "warmup_tokens": 0},
            "the cooldown would start at step 0",
        ),
        (
            {"name": "inverse_width", "batch_tokens": 500_000, "warmup_tokens": 0, "cooldown_min_steps": 0},
            "206,026 tokens are less than half a batch",
        ),
    ],
)
def test_runs_too_short_for_their_recipe_are_left_out(recipe, reason):
    found = design(recipe=recipe)
    assert any(cell.name == "w32-C1e11" and reason in cell.reason for cell in found.left_out), found.left_out


def test_a_sweep_with_nothing_left_is_refused():
    with pytest.raises(UserError, match=r"sweep example has no runs, every cell is left out .*w16-C1e11"):
        design(budgets__max_tokens_per_parameter=1e-3)


def test_budgets_that_come_to_one_run_are_refused():
    with pytest.raises(
        UserError, match=r"budgets.flops: 1e\+11 and 1.0001e\+11 both come to 706 steps of 1,024 tokens at w16"
    ):
        design(budgets__flops=[1e11, 1.0001e11])


def test_budgets_that_differ_by_little_keep_apart_names():
    found = design(
        budgets={"tokens": [500_000_000_000, 500_000_100_000]}, ladder__widths=[16], recipe__reference_budget=None
    )
    assert list(keys(found)) == ["w16-trunk-s0", "w16-D5e11-s0", "w16-D5.000001e11-s0"]


def test_llamas_own_sizes_go_by_name_and_take_the_tokenizers_vocabulary():
    found = design(
        ladder__widths=None, ladder__sizes=["7B", "13B"], budgets={"tokens": [1_000_000]}, recipe__reference_budget=None
    )
    assert found.models == {name: released_size(name, vocab_size=512, context_length=128) for name in ("7B", "13B")}
    assert "13B-D1e6-s0" in keys(found)
    assert found.spec.ladder.all_widths == [4096, 5120]


def test_equal_shapes_are_refused():
    shapes = [{"name": name, "d_model": 32, "n_layers": 2, "n_heads": 2} for name in ("a", "b")]
    with pytest.raises(UserError, match=r"ladder.shapes: a and b are the same shape"):
        design(ladder__widths=None, ladder__shapes=shapes)


@pytest.mark.parametrize(
    ("budgets", "name", "tokens"),
    [({"tokens": [500_000]}, "w16-D5e5-s0", 500_000), ({"tokens_per_parameter": [20.0]}, "w16-R20-s0", 20 * 23_120)],
)
def test_other_units_of_budgets(budgets, name, tokens):
    found = design(budgets=budgets, recipe__reference_budget=None)
    (run,) = (run for run in found.runs if run.record.name == name)
    assert run.config.tokens == pytest.approx(tokens, abs=512)
    assert run.record.flops_budget is None


def test_a_width_may_have_its_own_budgets():
    found = design(budgets__by_width={32: [4e11]})
    assert [name for name in keys(found) if name.startswith("w32")] == ["w32-trunk-s0", "w32-C4e11-s0"]


def test_a_learning_rate_sweep():
    found = design(recipe__lr_multipliers=[0.5, 1, 2], budgets__flops=[4e11], ladder__widths=[16])
    walk(found)
    rates = {run.record.name: run.config.recipe.peak_lr for run in found.runs if not run.record.is_trunk}
    assert rates == {"w16-lr0.5-C4e11-s0": 0.008, "w16-C4e11-s0": 0.016, "w16-lr2-C4e11-s0": 0.032}


@pytest.mark.parametrize(
    ("precision", "widths", "device", "has_tiles", "expected"),
    [
        ("auto", [64, 128], "cpu", False, ("float32", "flash")),
        ("auto", [128, 256], "cpu", True, ("bfloat16", "flash")),
        ("auto", [64, 128], "cpu", True, ("float32", "flash")),
        ("auto", [64], "cuda", False, ("bfloat16", "flash")),
        ("float32", [64], "cuda", False, ("float32", "math")),
        ("bfloat16", [64], "cpu", False, ("bfloat16", "flash")),
    ],
)
def test_numerics(precision, widths, device, has_tiles, expected):
    numerics = resolve_numerics(sweep(precision=precision, ladder__widths=widths), device, has_bf16_tiles=has_tiles)
    assert (numerics.dtype, numerics.attention_kernel) == expected


def test_sizes_are_compiled_where_their_horizon_earns_it():
    """One answer for a trunk and its branches, whatever their own lengths."""
    spec = sweep(budgets={"tokens": [200_000, 800_000]}, recipe__reference_budget=800_000)
    by_width = {
        run.config.model.d_model: 800_000 * training_flops_per_token(run.config.model)
        for run in make_design(spec, FACTS, CPU).runs
    }
    found = make_design(spec, FACTS, CPU._replace(compile_from_flops=by_width[32]))
    assert {(run.config.model.d_model, run.config.compile) for run in found.runs} == {(16, False), (32, True)}


@pytest.mark.parametrize(("asked", "threshold"), [(True, 0.0), (False, math.inf), ("auto", COMPILE_FROM_FLOPS["cpu"])])
def test_what_compile_means(asked, threshold):
    assert resolve_numerics(sweep(compile=asked), "cpu", has_bf16_tiles=False).compile_from_flops == threshold


def test_missing_segments_go_back_to_what_exists():
    found = design(ladder__widths=[16])
    names = {segment.id: index for index, segment in enumerate(found.segments)}  # 0, 1, 2 trunk; 3, 4, 5 branches

    def missing(*done: int) -> list[int]:
        return [names[s.id] for s in missing_segments(found.segments, lambda s: names[s.id] in done)]

    assert missing() == [0, 1, 2, 3, 4, 5]
    assert missing(0, 1, 3) == [2, 4, 5]
    assert missing(3, 4) == [0, 1, 2, 5]
    assert missing(2, 3, 4) == [5]
    assert missing(3, 4, 5) == []  # a finished sweep stays finished without its trunk's checkpoints


@given(
    widths=st.lists(st.sampled_from([16, 24, 32, 48, 64]), min_size=1, max_size=3, unique=True),
    doublings=st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True),
    schedule=st.sampled_from(["wsd", "cosine"]),
    done=st.sets(st.integers(0, 60)),
)
@settings(max_examples=40, deadline=None)
def test_any_grid_is_sound(widths, doublings, seeds, schedule, done):
    found = design(
        ladder__widths=widths,
        budgets__flops=[1e11 * 2**k for k in doublings],
        seeds={"base": seeds},
        recipe={"name": "inverse_width", "schedule": schedule, "cooldown_min_steps": 4, "warmup_tokens": 1024},
    )
    walk(found)
    assert len(set(keys(found).values())) == len(found.runs)
    runs = {run.config.key: run for run in found.runs}
    assert len(runs) + sum(not run.record.is_trunk for run in found.runs) >= len(found.segments)
    finished = {segment.id for index, segment in enumerate(found.segments) if index in done}
    for segment in missing_segments(found.segments, lambda s: s.id in finished):
        assert segment.id not in finished
    for run in found.runs:
        if not run.record.is_trunk:
            assert run.config.tokens / count_parameters(run.config.model).n_params > 0


@pytest.mark.parametrize(
    "budgets",
    [
        {"flops": [1e5]},
        {"tokens": [10]},
        {"flops": [1e11, 2e11], "min_tokens_per_parameter": 1e6},
        {"tokens_per_parameter": [1e6], "max_tokens_per_parameter": 100},
    ],
)
def test_of_a_sweep_without_runs_the_message_says_a_budget_that_has_one(budgets):
    with pytest.raises(UserError, match="no runs") as error:
        design(budgets=budgets, recipe={"name": "inverse_width"})
    found = re.search(r"budgets\.(\w+) of about (\S+) would be enough for (\w+)$", str(error.value))
    assert found is not None
    unit, value, size = found.groups()
    enough = int(float(value)) if unit == "tokens" else float(value)
    runs = design(budgets=budgets | {unit: [enough]}, recipe={"name": "inverse_width"}).runs
    assert size in {run.size for run in runs}
