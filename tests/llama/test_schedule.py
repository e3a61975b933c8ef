import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.schedule import learning_rate, warmup_steps
from tests.llama.shapes import branch_of, tiny_recipe, tiny_run


def test_warm_up_is_linear_and_stated_in_tokens() -> None:
    run = tiny_run()  # batches of 64 tokens, warm-up of 256
    assert warmup_steps(run) == 4
    assert [learning_rate(run, step) for step in range(5)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_cooldown_is_one_minus_sqrt_over_the_last_fifth() -> None:
    run = tiny_run(tokens=64 * 100)
    assert run.cooldown_start_step == 80
    assert learning_rate(run, 79) == learning_rate(run, 80) == 0.01
    assert learning_rate(run, 85) == pytest.approx(0.01 * (1 - math.sqrt(5 / 20)))
    assert 0 < learning_rate(run, 99) < 0.01 * 0.03


def test_cooldown_has_a_floor_in_steps_and_starts_at_a_log_point() -> None:
    assert tiny_run(tokens=64 * 10).log_every_steps == 4
    assert tiny_run(tokens=64 * 10).cooldown_start_step == 4


def test_cosine_ends_at_its_final_ratio() -> None:
    run = tiny_run(recipe=tiny_recipe(schedule="cosine", final_lr_ratio=0.1), tokens=64 * 100)
    assert learning_rate(run, 52) == pytest.approx(0.01 * (0.1 + 0.9 * 0.5))
    assert learning_rate(run, 99) == pytest.approx(0.001, rel=0.02)


@given(st.integers(min_value=10, max_value=5000), st.integers(min_value=0, max_value=5000))
def test_a_branch_has_its_trunks_learning_rate_up_to_the_fork(steps: int, step: int) -> None:
    run = branch_of(tiny_run(tokens=64 * steps))
    assert run.fork_step is not None
    if step < run.fork_step:
        assert learning_rate(run, step) == learning_rate(run.trunk(), step)
    elif step < steps:
        assert learning_rate(run, step) <= learning_rate(run.trunk(), step)
