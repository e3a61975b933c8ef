"""Resamples: what residuals say about noise, groups that stay whole, and spread that is right for few of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting.bootstrap import MIN_GROUPS, draw, seed_noise
from analysis.fitting.fit import fit
from analysis.fitting.residual_noise import SHARES, leverage_corrected, noise_draws, tangent
from analysis.fitting.run_arrays import noise_scale
from analysis.laws.chinchilla import Chinchilla
from analysis.results import Array
from analysis.runs.table import RunTable
from tests.analysis.tables import BESIROGLU, make_table, predict


def trunks(count: int, *, sd: float = 0.005, share: float = 0.5, seed: int = 0, seeds: int = 1) -> RunTable:
    """Five branches a trunk: `count` sizes in `seeds` seeds."""
    rng = np.random.default_rng(seed)
    size, _, ratio = (
        x.ravel()
        for x in np.meshgrid(np.geomspace(5e7, 3e9, count), range(seeds), np.geomspace(10, 160, 5), indexing="ij")
    )
    member = np.repeat(np.arange(count * seeds), 5)
    noise = np.sqrt(share) * rng.standard_normal(count * seeds)[member] + np.sqrt(1 - share) * rng.standard_normal(
        len(size)
    )
    loss = predict(BESIROGLU, size, size * ratio) * np.exp(sd * noise)
    return make_table(size, size * ratio, loss, groups=[f"trunk-{m}" for m in member])


def a_tangent(runs: int, rank: int, rng: np.random.Generator) -> Array:
    return np.asarray(np.linalg.qr(rng.standard_normal((runs, rank)))[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 9))
def test_corrected_residuals_are_those_of_a_fit_without_the_group(seed: int, groups: int) -> None:
    """For a linear model the correction is exact: it is the prediction error of the fit to all other groups."""
    rng = np.random.default_rng(seed)
    member = np.sort(np.concatenate([np.arange(groups), rng.integers(0, groups, 4 * groups)]))
    x_nr, y_n = rng.standard_normal((len(member), 2)), rng.standard_normal(len(member))
    residual = y_n - x_nr @ np.linalg.lstsq(x_nr, y_n, rcond=None)[0]
    corrected = leverage_corrected(residual, member, np.linalg.qr(x_nr)[0])
    for group in range(groups):
        mine = member == group
        others = np.linalg.lstsq(x_nr[~mine], y_n[~mine], rcond=None)[0]
        if np.linalg.eigvalsh(x_nr[mine].T @ x_nr[mine] @ np.linalg.inv(x_nr.T @ x_nr)).max() < 0.9:
            assert corrected[mine] == pytest.approx(y_n[mine] - x_nr[mine] @ others, abs=1e-9)


def test_a_group_that_decides_a_direction_alone_is_not_blown_up() -> None:
    """Its leverage is 1: what it would have been without itself isn't known, and the correction stays finite."""
    x_nr = np.zeros((6, 1))
    x_nr[0] = 1.0
    residual = np.array([0.0, 1.0, -1.0, 1.0, -1.0, 0.5])
    corrected = leverage_corrected(residual, np.arange(6), x_nr)
    assert corrected == pytest.approx(residual)


def test_shares_are_drawn_as_the_residuals_and_the_prior_have_them() -> None:
    """The closed form by groups against the restricted likelihood written out with whole matrices, times Jeffreys's prior."""
    rng = np.random.default_rng(3)
    member = np.repeat(np.arange(6), [5, 4, 5, 3, 5, 5])
    runs = len(member)
    basis = a_tangent(runs, 5, rng)
    residual = 0.01 * (0.8 * rng.standard_normal(6)[member] + 0.6 * rng.standard_normal(runs))
    rest = np.linalg.svd(basis)[0][:, 5:]
    same = member[:, None] == member[None]
    log_posterior = []
    for share in SHARES:
        covariance = rest.T @ (share * same + (1 - share) * np.eye(runs)) @ rest
        squares = (rest.T @ residual) @ np.linalg.solve(covariance, rest.T @ residual)
        prior = 1 / ((1 - share) * (1 + (runs / 6 - 1) * share))
        log_posterior.append(np.log(prior) - np.linalg.slogdet(covariance)[1] / 2 - (runs - 5) / 2 * np.log(squares))
    expected = np.exp(np.array(log_posterior) - max(log_posterior))
    _, share_K = noise_draws(residual, member, basis, 40_000, rng)
    counted = np.array([(share_K == share).mean() for share in SHARES])
    assert counted == pytest.approx(expected / expected.sum(), abs=0.01)


def test_many_trunks_show_their_noise_and_few_leave_it_open() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for groups in (5, 200):
        member = np.repeat(np.arange(groups), 5)
        noise = np.sqrt(0.6) * rng.standard_normal(groups)[member] + np.sqrt(0.4) * rng.standard_normal(len(member))
        sd_K, share_K = noise_draws(0.01 * noise, member, a_tangent(len(member), 5, rng), 2000, rng)
        widths.append((np.ptp(np.quantile(share_K, [0.05, 0.95])), np.ptp(np.quantile(sd_K, [0.05, 0.95]))))
        if groups == 200:
            assert np.median(sd_K) == pytest.approx(0.01, rel=0.1)
            assert np.median(share_K) == pytest.approx(0.6, abs=0.1)
    assert widths[0][0] > 3 * widths[1][0]
    assert widths[0][1] > 3 * widths[1][1]


def test_what_a_fit_takes_from_trunks_is_given_back() -> None:
    """Five trunks, five parameters: the plain residual sd is too small, the drawn one is right on the average."""
    plain, drawn = [], []
    for seed in range(60):
        found = fit(trunks(5, sd=0.01, share=0.8, seed=seed), bootstrap=200, objective="lsq_log")
        assert found.resampling is not None
        assert found.resampling.method == "parametric"
        assert found.resampling.noise_sd is not None
        plain.append(found.residual_sd)
        drawn.append(found.resampling.noise_sd)
    assert np.mean(plain) < 0.0075
    assert np.mean(drawn) == pytest.approx(0.01, rel=0.25)


@pytest.mark.parametrize(("groups", "method"), [(MIN_GROUPS - 1, "parametric"), (MIN_GROUPS, "group")])
def test_the_method_goes_by_the_number_of_groups(groups: int, method: str) -> None:
    found = fit(trunks(groups), bootstrap=50)
    assert found.resampling is not None
    assert (found.resampling.method, found.resampling.groups) == (method, groups)


def group_noise(table: RunTable, *, draws: int) -> tuple[Array, Array]:
    """The noise (K, n) that a group bootstrap adds to the true law, and each run's group."""
    runs = table.fitted
    n, d, loss = (runs[name].to_numpy(dtype=float) for name in ("n_params", "n_tokens", "loss"))
    predicted = predict(BESIROGLU, n, d)
    problem = Chinchilla().problem(n, d, loss)
    found = fit(table, bootstrap=0, objective="lsq_log")
    theta = problem.starts(loss / problem.scale, np.ones(len(loss)))[0]
    drawn = draw(
        runs,
        predicted,
        found.residual_sd,
        counting="n_params",
        draws=draws,
        seed=1,
        tangent_nr=tangent(problem, theta, noise_scale(runs)),
    )
    assert drawn.resampling.method == "group"
    return drawn.log_loss_Kn - np.log(predicted), runs["group"].to_numpy(dtype=str)


def test_groups_stay_whole() -> None:
    """Within a group all residuals move by one number a draw; between groups by different ones."""
    noise_Kn, group_n = group_noise(trunks(9), draws=300)
    for name in np.unique(group_n):
        correlation = np.corrcoef(noise_Kn[:, group_n == name], rowvar=False)
        assert np.abs(correlation) == pytest.approx(1.0)
    first, second = (np.flatnonzero(group_n == name)[0] for name in ("trunk-0", "trunk-5"))
    assert abs(np.corrcoef(noise_Kn[:, first], noise_Kn[:, second])[0, 1]) < 0.25


def test_few_groups_have_heavier_tails_than_many() -> None:
    """Kurtosis of the multipliers: a t of 8 degrees of freedom at 9 groups, nearly none at 120."""
    tails = []
    for table in (trunks(9), trunks(8, seeds=15)):
        noise_Kn, _ = group_noise(table, draws=4000)
        standard = noise_Kn / noise_Kn.std(axis=0)
        tails.append(float(np.median((standard**4).mean(axis=0))))
    assert tails[0] > 1.3 * tails[1]


def test_noise_between_seeds_is_that_of_the_typical_run() -> None:
    """Half of the runs stand for the mean of 16: they scatter a quarter as much, and the typical run half as much as one."""
    rng = np.random.default_rng(0)
    n, ratio, _ = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 10), np.geomspace(5, 80, 10), range(4)))
    weight = np.where(np.arange(400) % 2 == 0, 16.0, 1.0)
    loss = predict(BESIROGLU, n, n * ratio) * np.exp(0.02 / np.sqrt(weight) * rng.standard_normal(400))
    designs = [f"{size:g} {tokens:g}" for size, tokens in zip(n, ratio, strict=True)]
    table = make_table(n, n * ratio, loss, designs=designs)
    noise = seed_noise(table.frame.assign(weight=weight))
    assert noise is not None
    assert noise.degrees_of_freedom == 300
    assert noise.sd == pytest.approx(0.01, rel=0.1)


def test_a_run_of_more_weight_scatters_less() -> None:
    table = trunks(6)
    weight = np.where(np.arange(30) % 2 == 0, 4.0, 1.0)
    runs = RunTable(source="", frame=table.frame.assign(weight=weight)).fitted
    predicted = predict(BESIROGLU, runs["n_params"].to_numpy(), runs["n_tokens"].to_numpy())
    drawn = draw(
        runs,
        predicted,
        0.01,
        counting="n_params",
        draws=4000,
        seed=0,
        tangent_nr=a_tangent(30, 5, np.random.default_rng(0)),
    )
    spread = np.median(np.abs(drawn.log_loss_Kn - np.log(predicted)), axis=0)
    assert spread[weight == 1].mean() == pytest.approx(2 * spread[weight == 4].mean(), rel=0.05)


@pytest.mark.parametrize("groups", [6, 9])
def test_an_exact_law_has_intervals_of_no_width(groups: int) -> None:
    found = fit(trunks(groups, sd=0.0), bootstrap=50)
    assert found.ci95 is not None
    for name, value in BESIROGLU.items():
        assert found.ci95[name].lo == pytest.approx(value, rel=1e-3)
        assert found.ci95[name].hi == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("resampling", ["group", "parametric", "run", "residual"])
def test_the_seed_decides(resampling: str) -> None:
    table = trunks(9)
    first, again, other = (fit(table, bootstrap=20, resampling=resampling, seed=seed).draws_KP for seed in (1, 1, 2))
    assert first is not None
    assert other is not None
    assert np.array_equal(first, again if again is not None else first[:0])
    assert not np.array_equal(first, other)
