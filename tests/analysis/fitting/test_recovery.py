"""The benchmark of coverage, in short: known laws on a few dozen designs, and that it can be stopped and gone on with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from benchmarks import recovery
from benchmarks.recovery import QUANTITIES, binomial_interval, estimator_digest, run, study_line, summarise
from benchmarks.recovery_designs import DESIGNS, simulate
from llama.errors import UserError

SETTINGS = {"law": "chinchilla", "objective": "huber_log", "bootstrap": 200, "beyond": 10.0, "estimator": "0" * 12}
#: Studies of each fixed design, and random ones.
FIXED, RANDOM = 5, 25


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    wanted = [(name, number) for name in DESIGNS for number in range(RANDOM if name == "random" else FIXED)]
    return [study_line(name, number, "huber_log", 200) for name, number in wanted]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_intervals_cover_at_ten_times_the_largest_compute(lines: list[dict[str, Any]], quantity: str) -> None:
    """Were the coverage 90 %, one in a thousand such sets of studies would have so few; at 95 % nearly none."""
    inside = sum(line[quantity][1] <= 1 <= line[quantity][2] for line in lines)
    assert inside >= binom.ppf(0.001, len(lines), 0.90)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_intervals_are_no_wider_than_they_must_be(lines: list[dict[str, Any]], quantity: str) -> None:
    """Shrunk to 40 % around the estimate a 95 % interval keeps 57 % of a normal law's truths, and many fewer than 90 %."""
    inside = 0
    for line in lines:
        estimate, low, high = np.log(line[quantity])
        inside += estimate + 0.4 * (low - estimate) <= 0 <= estimate + 0.4 * (high - estimate)
    assert inside < binom.ppf(0.001, len(lines), 0.90)


def test_none_is_refused_and_all_methods_take_part(lines: list[dict[str, Any]]) -> None:
    assert {line["method"] for line in lines} == {"group", "parametric", "run"}
    assert summarise(lines)["refused"] == 0


def test_a_study_is_decided_by_its_design_and_number() -> None:
    for name in ("random", "outliers", "wsd_6"):
        (first, table), (again, same), (_, other) = simulate(name, 3), simulate(name, 3), simulate(name, 4)
        assert first.truth == again.truth
        assert table.frame["loss"].equals(same.frame["loss"])
        assert not np.array_equal(table.frame["loss"], other.frame["loss"])
    with pytest.raises(UserError, match="no design is called 'triangle'"):
        simulate("triangle", 0)


def test_noise_is_as_the_design_says() -> None:
    """Over many studies of trunks: the sd of log loss, and the correlation along a trunk."""
    residual = []
    for number in range(200):
        study, table = simulate("wsd_6", number)
        law = study.truth
        predicted = law["E"] + law["A"] * study.n_params ** -law["alpha"] + law["B"] * study.n_tokens ** -law["beta"]
        residual.append(np.log(table.frame["loss"].to_numpy() / predicted))
    residual_Rn = np.array(residual)
    assert residual_Rn.std() == pytest.approx(0.005, rel=0.05)
    correlation = np.corrcoef(residual_Rn, rowvar=False)
    same = np.array(study.trunk)[:, None] == np.array(study.trunk)[None]
    assert correlation[same & ~np.eye(len(same), dtype=bool)].mean() == pytest.approx(0.5, abs=0.08)
    assert abs(correlation[~same].mean()) < 0.03


def test_random_designs_are_many_kinds() -> None:
    studies = [simulate("random", number)[0] for number in range(40)]
    assert {study.grouped for study in studies} == {True, False}
    for study in studies:
        sizes, ratio = np.unique(study.n_params), study.n_tokens / study.n_params
        assert 4 <= len(sizes) <= 9
        assert 4.9 < ratio.min() < ratio.max() < 310
        assert 0.002 <= study.sd.min() <= study.sd.max() <= 0.02
    assert len({round(study.truth["alpha"], 6) for study in studies}) == 40


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line cut in two by a kill is done again, whole ones aren't; the lines are those of a run never stopped."""
    made: list[int] = []

    def counted(design: str, replicate: int, objective: str, bootstrap: int) -> dict[str, Any]:
        made.append(replicate)
        return {"design": design, "replicate": replicate, "cpu_seconds": 0.0}

    monkeypatch.setattr(recovery, "study_line", counted)
    wanted, path = [("ladder", number) for number in range(4)], tmp_path / "lines.jsonl"
    part = run(wanted, path, SETTINGS)
    next(part), next(part), next(part)
    part.close()
    path.write_text(path.read_text(encoding="utf-8")[:-10], encoding="utf-8")
    assert [line["replicate"] for line in run(wanted, path, SETTINGS)] == [0, 1, 2, 3]
    assert made == [0, 1, 2, 2, 3]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 5
    for other in ({"bootstrap": 7}, {"estimator": "1" * 12}):
        with pytest.raises(UserError, match="choose another --out"):
            list(run(wanted, path, SETTINGS | other))


def test_the_estimator_is_its_code_and_not_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, words = tmp_path / "analysis/fitting/fit.py", tmp_path / "analysis/fitting/fit_json.py"
    code.parent.mkdir(parents=True)
    monkeypatch.setattr(recovery, "ROOT", tmp_path)

    def digest(text: str, said: str = "") -> str:
        code.write_text(text, encoding="utf-8")
        words.write_text(said, encoding="utf-8")
        return estimator_digest()

    first = digest('"""Fits."""\nHALF = 0.5\n')
    assert digest('"""Fits well."""\n\nHALF = 0.5  # of it\n', said="X = 1") == first
    assert digest('"""Fits."""\nHALF = 0.4\n') != first


def test_noise_by_size_can_be_weighed_where_seeds_repeat_and_nowhere_else() -> None:
    plain, weighted = (study_line(name, 7, "huber_log", 100) for name in ("noise_floor", "noise_floor_weighted"))
    assert plain["runs"] == weighted["runs"]
    assert plain["n_opt"] != weighted["n_opt"]
    refused = summarise([study_line("floor_6_weighted", 7, "huber_log", 100)])
    assert (refused["studies"], refused["refused"]) == (0, 1)
    [reason] = refused["refusals"]
    assert "Repeat seeds at two sizes or more" in reason


def test_the_command_ends_with_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recovery.json"
    arguments = [
        "recovery",
        "--out",
        str(out),
        "--designs",
        "wsd_6",
        "--replicates",
        "2",
        "--bootstrap",
        "50",
        "--first-replicate",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    recovery.main()
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(out.read_text(encoding="utf-8"))
    assert document["designs"]["wsd_6"]["studies"] == 2
    assert document["replicates"] == [5, 6]
    assert document["designs"]["wsd_6"]["methods"] == {"parametric": 2}


def test_misses_are_told_by_their_side() -> None:
    line = {"design": "x", "method": "run"}
    intervals = ([1.0, 0.9, 1.1], [1.2, 1.1, 1.4], [0.8, 0.7, 0.9], [0.7, 0.6, 0.8])
    summary = summarise([{**line, **dict.fromkeys(QUANTITIES, one)} for one in intervals] + [{"refused": "no"}])
    assert (summary["studies"], summary["refused"]) == (4, 1)
    loss = summary["loss"]
    assert (loss["coverage"], loss["truth_below"], loss["truth_above"]) == (0.25, 1, 2)
    exact = binomtest(1, 4).proportion_ci(0.95, "exact")
    assert binomial_interval(1, 4) == pytest.approx((exact.low, exact.high))
    assert (binomial_interval(0, 5)[0], binomial_interval(5, 5)[1]) == (0.0, 1.0)
