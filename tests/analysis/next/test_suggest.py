"""The next runs from a table: candidates, the batch, when to stop, and questions that can't be answered."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, next_runs
from analysis.decisions.costs import flops_rule
from analysis.next.candidates import Candidates, Size, Trunk, grid, of_file, sizes_around
from analysis.next.choice import when_to_stop
from analysis.next.describe_next import describe_next, next_json
from analysis.plots.next_runs import next_runs_picture
from analysis.results import Fit
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict

FLOPS = 1e22


def table(noise: float = 0.005, sizes: int = 6, largest: float = 1e9, seeds: int = 1) -> RunTable:
    n, r, _ = (
        x.ravel()
        for x in np.meshgrid(np.geomspace(3e7, largest, sizes).round(), [5.0, 15, 50, 150], range(seeds), indexing="ij")
    )
    rng = np.random.default_rng(1)
    loss = predict(BESIROGLU, n, n * r) * np.exp(noise * rng.standard_normal(len(n)))
    designs = [f"{a:.0f}-{b:.0f}" for a, b in zip(n, r, strict=True)] if seeds > 1 else None
    return make_table(n, n * r, loss, flops=6 * n * n * r, designs=designs)


def around(fitted: Fit) -> Candidates:
    six_nd = flops_rule(6.0, "6 N")
    return grid(fitted, sizes_around(fitted, six_nd), six_nd)


@pytest.fixture(scope="module")
def made() -> RunTable:
    return table()


@pytest.fixture(scope="module")
def fitted(made: RunTable) -> Fit:
    return fit(made, bootstrap=200)


def test_every_run_of_a_batch_narrows_and_the_interval_holds_todays_value(made: RunTable, fitted: Fit) -> None:
    found = next_runs(made, flops=FLOPS, runs=5, fit=fitted)
    lefts = [1.0, *(step.left for step in found.chosen)]
    assert len(found.chosen) == 5
    assert all(later < earlier for earlier, later in pairwise(lefts))
    spent = 0.0
    for step in found.chosen:
        spent += step.run.flops
        assert step.spent_flops == pytest.approx(spent)
        assert found.ci95.lo < step.ci95.lo < found.value < step.ci95.hi < found.ci95.hi
    savings = [step.saving for step in found.chosen]
    assert savings == sorted(savings)
    assert savings[-1] <= found.stop.saving_of_all <= found.stop.waste * found.stop.target_cost


def test_the_expected_interval_is_what_the_runs_then_give() -> None:
    """Made by the truth and fitted again, the named runs narrow the bootstrap's interval to within 40 % of what was said."""
    made = table(noise=0.004)
    found = next_runs(made, flops=FLOPS, spend=2e21, bootstrap=300)
    n, d = (np.array([getattr(step.run, name) for step in found.chosen]) for name in ("n_params", "n_tokens"))
    loss = predict(BESIROGLU, n, d) * np.exp(0.004 * np.random.default_rng(5).standard_normal(len(n)))
    more = make_table(n, d, loss, flops=6 * n * d).frame
    more["run_id"] = more["name"] = [f"new-{k}" for k in range(len(n))]
    both = replace(made, frame=pd.concat([made.frame, more], ignore_index=True))
    then = next_runs(both, flops=FLOPS, runs=1, bootstrap=300)

    def width(ci95: object) -> float:
        return float(np.log(ci95.hi / ci95.lo))  # type: ignore[attr-defined]

    assert width(found.chosen[-1].ci95) < 0.9 * width(found.ci95)
    assert width(then.ci95) == pytest.approx(width(found.chosen[-1].ci95), rel=0.4)


@pytest.mark.parametrize("narrow", ["n", "d", "loss", "dollars"])
def test_each_quantity_can_be_narrowed(made: RunTable, fitted: Fit, narrow: str) -> None:
    question = {"target_loss": 2.2} if narrow == "dollars" else {"flops": FLOPS}
    found = next_runs(made, narrow=narrow, runs=2, fit=fitted, **question)  # type: ignore[arg-type]
    assert found.narrow == narrow
    assert found.chosen[-1].left < 1
    assert found.ci95.lo < found.value < found.ci95.hi


def test_a_lifetimes_choice_is_narrowed_too(made: RunTable, fitted: Fit) -> None:
    trained = next_runs(made, flops=FLOPS, runs=2, fit=fitted)
    owned = next_runs(made, flops=FLOPS, demand_tokens=1e12, runs=2, fit=fitted)
    assert owned.target[0] < trained.target[0]
    assert owned.stop.target_cost > trained.stop.target_cost


def test_what_is_to_be_spent_is_not_passed(made: RunTable, fitted: Fit) -> None:
    found = next_runs(made, flops=FLOPS, spend=1e20, fit=fitted)
    assert 0 < found.chosen[-1].spent_flops <= 1e20
    nothing = next_runs(made, flops=FLOPS, spend=1e10, fit=fitted)
    assert not nothing.chosen
    assert "more than --spend" in nothing.warnings[-1]
    assert nothing.stop.enough


def test_the_grid_goes_around_the_runs_and_stays_cheaper_than_the_target(made: RunTable, fitted: Fit) -> None:
    offered = around(fitted)
    sizes = np.unique(made.frame["n_params"])
    assert np.unique(offered.runs.n_params_n).max() > sizes.max()
    assert np.unique(offered.runs.n_params_n).min() < sizes.min()
    assert set(sizes) <= set(offered.runs.n_params_n)
    assert offered.flops_m.max() > made.frame["flops"].max()
    found = next_runs(made, flops=1e20, runs=1, fit=fitted)
    assert max(run.flops for run in found.candidates) < 1e20


def test_branches_are_offered_off_the_trunk_of_their_size_and_repeats_off_a_new_one() -> None:
    """A trunk has one run of a length: another seed of a cell shares no noise with it, in a grid or in a file."""
    made = table()
    frame = made.frame.assign(group=[f"trunk-{n:.0f}" for n in made.frame["n_params"]])
    fitted = fit(replace(made, frame=frame), bootstrap=0)
    offered = around(fitted)
    n, d = frame["n_params"].to_numpy(), frame["n_tokens"].to_numpy()
    seen = set()
    for size, tokens, trunk in zip(offered.runs.n_params_n, offered.runs.n_tokens_n, offered.runs.trunk_n, strict=True):
        again = bool(((n == size) & (np.abs(np.log(d / tokens)) < 0.01)).any())
        assert trunk == (f"trunk-{size:.0f}" if size in n and not again else f"new-{size:.17g}")
        seen.add((size in n, again))
    assert seen == {(True, True), (True, False), (False, False)}


def test_seeds_of_one_cell_in_a_file_are_off_trunks_of_their_own(tmp_path: Path) -> None:
    made = table()
    fitted = fit(replace(made, frame=made.frame.assign(group="one")), bootstrap=0)
    n, d = (made.frame[name].iloc[0] for name in ("n_params", "n_tokens"))
    path = tmp_path / "candidates.csv"
    path.write_text(f"n_params,n_tokens\n{n},{d}\n{n},{d}\n{n},{d * 1.5}\n")
    offered = of_file(path, fitted, flops_rule(6.0, "6 N"))
    assert offered.runs.trunk_n.tolist() == [f"new-{n:.17g}", f"new-{n:.17g}-1", "one"]


def test_the_losses_unit_changes_no_share() -> None:
    """Noise and misfit are of the log loss, and so is what is narrowed: nats or ten times nats."""
    made = table(noise=0.01, sizes=4)
    nats, tenfold = (
        next_runs(
            replace(made, frame=made.frame.assign(loss=scale * made.frame["loss"])),
            narrow="loss",
            flops=FLOPS,
            runs=2,
            bootstrap=100,
        )
        for scale in (1.0, 10.0)
    )
    assert [run.share for run in tenfold.candidates] == pytest.approx([run.share for run in nats.candidates], rel=1e-2)


def test_an_empty_grid_is_not_taken_for_a_cheap_target(made: RunTable, fitted: Fit) -> None:
    far = Size("", 1e15, 6e15)
    with pytest.raises(UserError, match="no cell of the grid"):
        next_runs(made, flops=FLOPS, candidates=[far], fit=fitted)


def test_a_length_that_would_be_held_out_is_no_candidate(fitted: Fit) -> None:
    n = fitted.points[0].n_params
    offered = grid(fitted, [Size("small", n, 6 * n, most_tokens=20 * n)], flops_rule(6.0, "6 N"))
    assert offered.runs.n_tokens_n.max() <= 20 * n < 150 * n


def test_repeated_seeds_tell_the_noise_from_the_misfit() -> None:
    found = next_runs(table(noise=0.01, sizes=4, seeds=3), flops=FLOPS, runs=1, bootstrap=100)
    assert "seeds differ by" in found.noise_rule
    assert found.noise.sd == pytest.approx(0.01, rel=0.35)
    assert found.noise.misfit_sd < 0.005


def test_sure_of_the_choice_more_runs_will_not_change_it() -> None:
    """Nearly exact losses, a target inside the runs: the verdict is to stop. Noisy ones, a far target: it is not."""
    sure = next_runs(table(noise=1e-4), flops=3e19, runs=3, bootstrap=200)
    assert sure.stop.enough
    assert sure.stop.worth == 0
    assert "More runs will not change the choice" in sure.stop.words
    unsure = next_runs(table(noise=0.01), flops=1e23, runs=3, bootstrap=200)
    assert not unsure.stop.enough
    assert unsure.stop.worth >= 1
    assert unsure.stop.waste > 10 * sure.stop.waste


def test_the_stop_rule_weighs_what_runs_save_against_what_they_cost() -> None:
    asked = {"waste": 0.04, "target_cost": 1000.0, "left_by_all": 0.25, "unit": "USD"}
    pays = when_to_stop(savings=[8.0, 20.0, 22.0], spent=[1.0, 5.0, 50.0], **asked)  # type: ignore[arg-type]
    assert (pays.enough, pays.worth) == (False, 2)
    assert pays.saving_of_all == pytest.approx(30.0)
    dear = when_to_stop(savings=[8.0, 20.0], spent=[9.0, 25.0], **asked)  # type: ignore[arg-type]
    assert (dear.enough, dear.worth) == (True, 0)
    assert "No run of this batch pays for itself" in dear.words
    settled = when_to_stop(savings=[0.5], spent=[0.1], **{**asked, "waste": 0.0009})  # type: ignore[arg-type]
    assert settled.enough
    assert "will not change the choice" in settled.words


def test_candidates_of_a_file_are_the_only_ones(made: RunTable, fitted: Fit, tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text("n_params,n_tokens,flops,name\n2e9,4e10,1e20,big\n5e7,1e10,1e18,small\n")
    found = next_runs(made, flops=FLOPS, candidates=path, fit=fitted)
    assert {run.name for run in found.candidates} == {"big", "small"}
    assert {run.flops for run in found.candidates} == {1e20, 1e18}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n,n_tokens\n1,2\n", "no column n_params"),
        ("n_params,n_tokens\n", "no rows"),
        ("n_params,n_tokens\n1e8,1e9\n1e8,-1\n", "row 2: n_tokens"),
        ("n_params,n_tokens\n1e8,many\n", "row 1: n_tokens is 'many'"),
    ],
)
def test_a_bad_file_is_told_by_row_and_column(
    made: RunTable, fitted: Fit, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        next_runs(made, flops=FLOPS, candidates=path, fit=fitted)
    with pytest.raises(UserError, match="can't be read"):
        next_runs(made, flops=FLOPS, candidates=tmp_path / "absent.csv", fit=fitted)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "ask one question"),
        ({"flops": FLOPS, "target_loss": 2.0}, "ask one question"),
        ({"flops": FLOPS, "runs": 2, "spend": 1e20}, "name one of the two"),
        ({"flops": FLOPS, "runs": 0}, "--runs is 0"),
        ({"flops": FLOPS, "spend": -1.0}, "--spend is -1"),
        ({"flops": FLOPS, "narrow": "dollars"}, "fixes what is spent"),
        ({"target_loss": 2.2, "narrow": "loss"}, "fixes the loss"),
        ({"flops": FLOPS, "narrow": "alpha"}, "nothing to narrow is called"),
        ({"target_loss": 1.0}, "has no answer to this question"),
        ({"flops": 1e12}, "costs less than any run of the grid"),
    ],
)
def test_refusals(made: RunTable, fitted: Fit, asked: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        next_runs(made, fit=fitted, **asked)  # type: ignore[arg-type]


def test_without_resamples_nothing_can_be_averaged(made: RunTable) -> None:
    with pytest.raises(UserError, match="--bootstrap"):
        next_runs(made, flops=FLOPS, bootstrap=0)


def test_words_document_and_picture_say_the_same(made: RunTable, fitted: Fit) -> None:
    found = next_runs(made, flops=FLOPS, runs=3, fit=fitted)
    assert found.stop.words in describe_next(found)
    document = next_json(found)
    assert [row["n_params"] for row in document["next"]] == [step.run.n_params for step in found.chosen]
    assert len(document["candidates"]) == len(found.candidates)
    gains = [row["variance_share_per_flop"] for row in document["candidates"]]
    assert gains == sorted(gains, reverse=True)
    points = next_runs_picture(found).points()
    assert set(points.loc[points["series"] == "next", "n_params"]) == {step.run.n_params for step in found.chosen}
    assert len(points[points["series"] == "expected interval"]) == 3


def test_a_branch_off_a_standing_trunk_costs_what_is_left_to_train() -> None:
    """From the last checkpoint before its fork; a length that the trunk has already is another seed, from scratch."""
    made = table()
    frame = made.frame.assign(group=[f"trunk-{n:.0f}" for n in made.frame["n_params"]])
    fitted = fit(replace(made, frame=frame), bootstrap=0)
    n, d = (float(frame[name].iloc[0]) for name in ("n_params", "n_tokens"))
    trunk = Trunk(f"trunk-{n:.0f}", (0.8 * d, 1.5 * d), 0.8, seed=4)
    offered = grid(fitted, [Size("small", n, 6 * n, (trunk,), first_seed=4, new_seed=5)], flops_rule(6.0, "6 N"))
    rows = zip(offered.runs.n_tokens_n, offered.flops_m, offered.runs.trunk_n, offered.seeds, strict=True)
    for tokens, flops, key, seed in rows:
        again = tokens in set(frame.loc[frame["n_params"] == n, "n_tokens"])
        fork = 0.8 * tokens
        stands = max((at for at in trunk.standing_tokens if at <= fork * 1.01), default=0.0)
        assert flops == pytest.approx(6 * n * (tokens if again else tokens - min(stands, fork)))
        assert (key, seed) == (("new-small", 5) if again else (trunk.key, 4))
    assert (offered.flops_m < 6 * n * offered.runs.n_tokens_n).any()


def test_a_repeat_is_off_no_trunk_of_another_learning_rate() -> None:
    """That trunk has no run of this length in the fit, but its seed has one in the sweep."""
    made = table()
    frame = made.frame.assign(group=[f"trunk-{n:.0f}" for n in made.frame["n_params"]])
    fitted = fit(replace(made, frame=frame), bootstrap=0)
    n = float(frame["n_params"].iloc[0])
    trunks = tuple(Trunk(key, seed=0) for key in ("trunk-at-another-rate", f"trunk-{n:.0f}"))
    offered = grid(fitted, [Size("small", n, 6 * n, trunks, first_seed=0, new_seed=1)], flops_rule(6.0, "6 N"))
    assert set(zip(offered.runs.trunk_n.tolist(), offered.seeds, strict=True)) == {
        (f"trunk-{n:.0f}", 0),
        ("new-small", 1),
    }


def test_runs_without_trunks_repeat_a_cell_at_a_new_seed_and_begin_one_at_the_first() -> None:
    made = table()
    fitted = fit(made, bootstrap=0)
    n = float(made.frame["n_params"].iloc[0])
    offered = grid(fitted, [Size("small", n, 6 * n, first_seed=0, new_seed=3)], flops_rule(6.0, "6 N"))
    lengths = made.frame.loc[made.frame["n_params"] == n, "n_tokens"].to_numpy()
    again = [bool((np.abs(np.log(lengths / d)) < 0.01).any()) for d in offered.runs.n_tokens_n]
    assert list(offered.seeds) == [3 if repeat else 0 for repeat in again]
    assert set(again) == {True, False}
    assert set(offered.runs.trunk_n) == {""}
