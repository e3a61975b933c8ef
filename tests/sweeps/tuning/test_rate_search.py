"""The search for rates on a surface whose answer is known: the law, the edges, pruning, and going on after a crash."""

from dataclasses import replace
from pathlib import Path

import pytest

from llama.errors import UserError
from sweeps.designs.spec import SweepSpec
from sweeps.tuning.optimum import Curve
from sweeps.tuning.rate_law import fit_rate_laws
from sweeps.tuning.rate_search import RateTrials, cells_of, search_rates
from sweeps.tuning.suggestions import open_journal
from sweeps.tuning.trials import Trial
from tests.sweeps.tuning.surface import (
    CPU,
    D_EXPONENT,
    FACTS,
    N_EXPONENT,
    FakeTraining,
    best_batch,
    best_lr,
    rate_sweep,
)


def trials_of(**tune) -> RateTrials:
    spec = rate_sweep(**tune)
    search = spec.tune.learning_rate
    return RateTrials(spec=spec, corpus=FACTS, numerics=CPU, search=search, cells=cells_of(spec, FACTS, CPU))


def searched(path: Path, training: FakeTraining, **tune) -> list[Trial]:
    trials = trials_of(**tune)
    return search_rates(trials, trials.open_studies(open_journal(path), seed=0), training)


def laws_of(trials: RateTrials, tried: list[Trial]):
    curves = {cell.name: Curve([one for one in tried if one.cell == cell.name]) for cell in trials.cells}
    held_out = [cell.name for cell in trials.cells if cell.held_out]
    return fit_rate_laws(curves, {cell.name: cell.point for cell in trials.cells}, held_out=held_out, seed=0, draws=200)


def test_the_laws_exponents_and_the_held_out_rate_are_found(tmp_path: Path) -> None:
    tried = searched(tmp_path / "journal", FakeTraining(noise=0.004, batch_matters=False), trials=10)
    laws = laws_of(trials_of(), tried)
    law = laws.peak_lr
    assert law.power_law.n_exponent == pytest.approx(N_EXPONENT, abs=0.15)
    assert law.power_law.d_exponent == pytest.approx(D_EXPONENT, abs=0.15)
    for index, exponent in ((1, N_EXPONENT), (2, D_EXPONENT)):
        low, high = law.interval(index)
        assert low < exponent < high
        assert high - low < 0.8
    held_out = next(cell for cell in trials_of().cells if cell.held_out)
    assert held_out.name not in law.cells
    predicted, (low, high) = law.at(held_out.point)
    assert predicted == pytest.approx(best_lr(held_out.point.n_params, held_out.tokens), rel=0.25)
    assert low < predicted < high
    assert laws.noise == pytest.approx(0.004, rel=0.5)
    assert laws.batch_tokens.power_law.d_exponent == 0  # one batch was tried


def test_the_batchs_law_is_found_where_three_were_tried(tmp_path: Path) -> None:
    tune = {"batch_tokens": [256, 512, 1024, 2048, 4096], "trials": 14}
    tried = searched(tmp_path / "journal", FakeTraining(), **tune)
    laws = laws_of(trials_of(**tune), tried)
    cell = trials_of(**tune).cells[1]
    assert laws.optima[cell.name].batch_tokens == pytest.approx(best_batch(cell.tokens), rel=0.3)
    assert laws.batch_tokens.power_law.d_exponent == pytest.approx(0.3, abs=0.15)
    assert laws.peak_lr.power_law.n_exponent == pytest.approx(N_EXPONENT, abs=0.1)


def test_a_minimum_beyond_what_was_tried_is_flagged_and_no_point_of_the_law(tmp_path: Path) -> None:
    tune = {"lr_multiples": {"low": 0.01, "high": 0.08}}
    tried = searched(tmp_path / "journal", FakeTraining(batch_matters=False), **tune)
    optimum = Curve([one for one in tried if one.cell == "w16-D1e6"]).optimum()
    assert [str(edge) for edge in optimum.edges] == ["peak_lr: the highest that was tried is the best"]
    assert optimum.peak_lr == pytest.approx(max(one.peak_lr for one in tried if one.cell == "w16-D1e6"))
    with pytest.raises(UserError, match=r"widen tune\.learning_rate\.lr_multiples"):
        laws_of(trials_of(**tune), tried)


@pytest.mark.parametrize("dies_after", [1, 5, 17])
def test_after_a_crash_the_same_command_makes_the_same_trials(tmp_path: Path, dies_after: int) -> None:
    tune = {
        "trials": 8,
        "at_once": 2,
        "prune": {"after": 4},
        "batch_tokens": [512, 1024, 2048],
        "horizons": [1_000_000],
    }
    whole = FakeTraining(noise=0.01)
    undisturbed = searched(tmp_path / "whole", whole, **tune)
    dying = FakeTraining(noise=0.01, dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "torn", dying, **tune)
    with (tmp_path / "torn").open("a") as journal:
        journal.write('{"op_code": 4, "torn')
    after = FakeTraining(noise=0.01)
    resumed = searched(tmp_path / "torn", after, **tune)
    assert resumed == undisturbed
    told_before = {name for name, _ in dying.trained} - {name for name, _ in after.trained}
    assert {name for name, _ in after.trained} | told_before == {name for name, _ in whole.trained}
    again = FakeTraining()
    assert searched(tmp_path / "torn", again, **tune) == undisturbed
    assert again.trained == []


def test_more_trials_add_to_those_there_are(tmp_path: Path) -> None:
    first = searched(tmp_path / "journal", FakeTraining(noise=0.01), trials=6)
    more = searched(tmp_path / "journal", FakeTraining(noise=0.01), trials=8)
    assert [one for one in more if one.number < 6] == first
    assert len(more) == len(first) * 8 // 6


def test_a_study_is_not_mixed_with_trials_of_another_recipe(tmp_path: Path) -> None:
    searched(tmp_path / "journal", FakeTraining(), trials=6)
    with pytest.raises(
        UserError, match=r"begun with another tune\.learning_rate\.lr_multiples\.low \(0\.125, now 0\.2\)"
    ):
        searched(tmp_path / "journal", FakeTraining(), trials=6, lr_multiples={"low": 0.2, "high": 5})


def test_censored_trials_are_stopped_by_the_rule_and_enter_no_fit(tmp_path: Path) -> None:
    tune = {"prune": {"at": 0.5, "above": 0.5, "after": 5}, "trials": 14, "horizons": [1_000_000]}
    training = FakeTraining(noise=0.002, batch_matters=False)
    tried = searched(tmp_path / "journal", training, **tune)
    censored = [one for one in tried if one.state == "censored"]
    assert censored
    ends = {name for name, step in training.trained if step == max(s for n, s in training.trained if n == name)}
    assert ends
    for one in censored:
        earlier = sorted(o.judged_loss for o in tried if o.cell == one.cell and o.number < one.number and o.judged_loss)
        assert one.loss is None
        assert one.number >= 5
        assert one.judged_loss > earlier[(len(earlier) - 1) // 2]
        assert len([step for name, step in training.trained if name == f"{one.cell}-t{one.number}"]) == 1
    for cell in {one.cell for one in tried}:
        mine = [one for one in tried if one.cell == cell]
        kept = [one for one in mine if one.state == "finished"]
        worsened = [one.model_copy(update={"judged_loss": 1e3}) if one.state == "censored" else one for one in mine]
        assert len(Curve(mine).loss) == len(kept)
        assert Curve(worsened).optimum() == Curve(mine).optimum()


@pytest.mark.parametrize(("batches", "seeds"), [(2, 2), (3, 3), (4, 2), (2, 4), (3, 2), (6, 3)])
def test_the_first_trials_tell_batches_from_seeds(batches: int, seeds: int) -> None:
    trials = trials_of(batch_tokens=[256 * 2**k for k in range(batches)])
    spec = trials.spec.model_copy(update={"seeds": trials.spec.seeds.model_copy(update={"base": list(range(seeds))})})
    starts = replace(trials, spec=spec).starts()
    pairs = {(start["batch_rank"], number % seeds) for number, start in enumerate(starts)}
    assert len({batch for batch, _ in pairs}) == min(batches, len(starts))
    if min(batches, seeds) < len(starts):
        one_to_one = len(pairs) == len({batch for batch, _ in pairs}) == len({seed for _, seed in pairs})
        assert not one_to_one


def test_a_cell_that_two_parts_want_is_searched_once_and_limits_hold(tmp_path: Path) -> None:
    parts = [
        {"tokens": [500_000, 1_000_000], "max_tokens_per_parameter": 30},
        {"tokens": [1_000_000], "sizes": ["w32"]},
    ]
    spec = SweepSpec.model_validate(rate_sweep(trials=6).model_dump(exclude_none=True) | {"budgets": parts})
    cells = cells_of(spec, FACTS, CPU)
    names = [cell.name for cell in cells]
    assert names.count("w32-D1e6") == 1
    assert "w16-D1e6" not in names
    assert [cell.name for cell in cells if cell.held_out] == ["w64-D5e5", "w64-D1e6"]
    trials = RateTrials(spec=spec, corpus=FACTS, numerics=CPU, search=spec.tune.learning_rate, cells=cells)
    tried = search_rates(trials, trials.open_studies(open_journal(tmp_path / "journal"), seed=0), FakeTraining())
    assert len(tried) == 6 * len(cells)


def test_limits_that_leave_no_law_are_refused() -> None:
    spec = rate_sweep()
    budgets = {"tokens": [1_000_000], "min_tokens_per_parameter": 5}
    with pytest.raises(UserError, match="w64, to be held out; with cells are w16, w32"):
        cells_of(SweepSpec.model_validate(spec.model_dump(exclude_none=True) | {"budgets": budgets}), FACTS, CPU)
