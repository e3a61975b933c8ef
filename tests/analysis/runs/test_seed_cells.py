"""Which runs of a foreign table differ in nothing but their seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting.bootstrap import seed_noise
from analysis.fitting.fit import fit
from analysis.runs.load import load_runs
from analysis.runs.table import RunTable
from tests.analysis.tables import BESIROGLU, predict


def table_of(tmp_path: Path, rows: list[dict[str, object]]) -> RunTable:
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    return load_runs(tmp_path / "runs.csv")


def study(seeds: int = 2, sd: float = 0.01) -> list[dict[str, object]]:
    """Four sizes at four ratios, each with as many seeds."""
    noise = sd * np.random.default_rng(0).standard_normal((16, seeds))
    rows: list[dict[str, object]] = []
    for cell, (n, ratio) in enumerate(itertools.product(np.geomspace(1e7, 1e9, 4), (5, 20, 80, 320))):
        loss = predict(BESIROGLU, np.array(n), np.array(n * ratio))
        for seed in range(seeds):
            rows.append({"n_params": n, "n_tokens": n * ratio, "seed": seed, "loss": loss * np.exp(noise[cell, seed])})
    return rows


def test_a_column_of_seeds_shows_their_noise(tmp_path: Path) -> None:
    table = table_of(tmp_path, study(seeds=3))
    assert table.frame["design"].nunique() == 16
    noise = seed_noise(table.fitted)
    assert noise is not None
    assert noise.degrees_of_freedom == 32
    assert noise.sd == pytest.approx(0.01, rel=0.3)
    assert fit(table, weights="noise", bootstrap=0).noise_model is not None


def test_without_seeds_equal_n_and_d_say_nothing(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "seed"} for row in study()]
    table = table_of(tmp_path, rows)
    assert (table.frame["design"] == "").all()
    assert seed_noise(table.fitted) is None


def test_a_seed_that_appears_twice_is_no_cell(tmp_path: Path) -> None:
    """Two runs of one seed differ in something that the table doesn't know, and so may the others of their cell."""
    rows = study()
    rows[1]["seed"] = 0
    table = table_of(tmp_path, rows)
    assert list(table.frame["design"][:2]) == ["", ""]
    assert (table.frame["design"][2:] != "").all()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("n_params_non_embedding", (9e6, 8e6)),
        ("n_params_matmul", (9e6, 8e6)),
        ("d_model", (64, 128)),
        ("n_layers", (4, 8)),
        ("peak_lr", (0.001, 0.002)),
        ("peak_lr", (0.001, "")),
        ("unique_tokens", (1e6, 2e6)),
        ("planned_tokens", (5e7, 5.01e7)),
        ("flops_budget", (1e15, 2e15)),
        ("held_out", ("true", "false")),
        ("dataset", ("c4", "rpj")),
        ("weight_decay", (0.1, 0.0)),
    ],
)
def test_runs_that_differ_in_anything_known_are_not_joined(
    tmp_path: Path, column: str, values: tuple[object, object]
) -> None:
    rows = study()
    for row in rows:
        row[column] = values[0]
    rows[1][column] = values[1]
    table = table_of(tmp_path, rows)
    assert table.frame["design"][0] != table.frame["design"][1]
    assert table.frame["design"][2] == table.frame["design"][3] != ""


def test_what_differs_from_run_to_run_tells_nothing(tmp_path: Path) -> None:
    rows = study()
    for number, row in enumerate(rows):
        row |= {"run_id": f"run{number}", "seconds": 100.0 + number / 7, "folder": f"out/{number}"}
    assert table_of(tmp_path, rows).frame["design"].nunique() == 16


def test_cells_that_a_file_names_stay(tmp_path: Path) -> None:
    rows = study()
    for row in rows[:4]:
        row["design"] = "mine"
    designs = list(table_of(tmp_path, rows).frame["design"])
    assert designs[:4] == ["mine"] * 4
    assert "mine" not in designs[4:]


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from([1e6, 2e6]),
            st.sampled_from([1e7, 3e7]),
            st.sampled_from(["", "0.001", "0.002"]),
            st.sampled_from(["", "0", "1", "2"]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_a_cell_holds_one_setting_and_each_seed_once(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[float, float, str, str]]
) -> None:
    rows: list[dict[str, object]] = [
        {"n_params": n, "n_tokens": d, "peak_lr": rate, "seed": seed, "loss": 3 + 0.01 * i}
        for i, (n, d, rate, seed) in enumerate(runs)
    ]
    frame = table_of(tmp_path_factory.mktemp("cells"), rows).frame
    assert (frame.loc[frame["seed"].isna(), "design"] == "").all()
    for _, cell in frame[frame["design"] != ""].groupby("design"):
        assert len(cell[["n_params", "n_tokens", "peak_lr"]].drop_duplicates()) == 1
        assert cell["seed"].is_unique
