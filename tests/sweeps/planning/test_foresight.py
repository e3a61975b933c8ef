"""What a fit could tell, from the design alone."""

import pytest

from llama.accounting import training_flops_per_token
from sweeps.planning.foresight import default_target_flops, foresee, known_law, longest_run_flops
from sweeps.planning.records import Foresight, PlanWarning
from sweeps.storage import Storage
from tests.sweeps.examples import design

WIDE = {
    "ladder__widths": [64, 128, 256],
    "budgets__flops": [1e15, 4e15, 1.6e16],
    "recipe__reference_budget": 4e15,
}


def seen(tmp_path, target_flops: float | None = 1e18, **changes) -> Foresight | PlanWarning:
    found = design(**WIDE | changes)
    return foresee(found, known_law(found, Storage(tmp_path)), target_flops=target_flops)


def width(foresight: Foresight) -> float:
    low, high = foresight.n_params_ci95
    return high / low


def test_the_published_law_says_where_the_optimum_is(tmp_path):
    """N* = G (C/6)^(beta / (alpha + beta)) with G = (alpha A / (beta B))^(1 / (alpha + beta)), at C = 6e21."""
    found = seen(tmp_path, target_flops=6e21)
    alpha, beta, a, b = 0.3478, 0.3658, 482.01, 2085.43
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    assert found.n_params == pytest.approx(g * 1e21 ** (beta / (alpha + beta)), rel=1e-3)
    assert found.n_params * found.n_tokens == pytest.approx(1e21, rel=1e-3)
    assert found.n_params_ci95[0] < found.n_params < found.n_params_ci95[1]
    assert "Besiroglu" in found.assumptions


def test_more_seeds_and_more_sizes_narrow_the_interval(tmp_path):
    one = seen(tmp_path)
    seeds = seen(tmp_path, seeds__base=[0, 1, 2, 3])
    sizes = seen(tmp_path, ladder__widths=[64, 96, 128, 192, 256, 384])
    assert (one.fitted_runs, seeds.fitted_runs, sizes.fitted_runs) == (9, 36, 18)
    assert width(one) > width(seeds)
    assert width(one) > width(sizes)


def test_held_out_runs_and_other_rates_tell_nothing_more(tmp_path):
    assert seen(tmp_path, held_out__largest_size=True).fitted_runs == 6
    rates = seen(tmp_path, recipe__lr_multipliers=[0.5, 1, 2])
    assert rates.fitted_runs == 9
    assert width(rates) == pytest.approx(width(seen(tmp_path)))


def test_a_design_that_cannot_identify_the_law_is_told_so(tmp_path):
    """One size: nothing tells of how the loss falls with N."""
    found = seen(tmp_path, ladder__widths=[64])
    assert found.n_params_ci95 is None
    assert any("alpha" in direction or "A" in direction for direction in found.unidentified)


def test_a_target_that_cannot_be_reached_is_a_warning(tmp_path):
    found = design(**WIDE)
    warning = foresee(found, known_law(found, Storage(tmp_path)), target_loss=1.0)
    assert isinstance(warning, PlanWarning)
    assert "no optimum" in warning.message
    reached = foresee(found, known_law(found, Storage(tmp_path)), target_loss=2.5)
    assert isinstance(reached, Foresight)
    assert (reached.target_loss, reached.target_flops) == (2.5, None)
    assert reached.loss == pytest.approx(2.5)


def test_where_every_run_is_held_out_there_is_nothing_to_fit(tmp_path):
    found = seen(tmp_path, ladder__widths=[64], held_out__largest_size=True)
    assert isinstance(found, PlanWarning)


def test_the_default_target_is_ten_times_the_longest_run_of_all_designs():
    small, large = design(), design(**WIDE)
    run = max((run for run in large.runs if not run.record.is_trunk), key=lambda run: run.config.tokens)
    assert longest_run_flops(large) >= run.config.tokens * training_flops_per_token(run.config.model)
    assert longest_run_flops(large) == pytest.approx(1.6e16, rel=1e-3)
    assert default_target_flops([small, large]) == 10 * longest_run_flops(large)
