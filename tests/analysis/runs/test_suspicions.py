"""Numbers that could be right and look wrong: said, and nothing left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.runs.load import load_runs
from tests.analysis.tables import BESIROGLU, predict


def warnings_of(tmp_path: Path, n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> tuple[str, ...]:
    pd.DataFrame({"n_params": n, "n_tokens": d, "loss": loss}).to_csv(tmp_path / "runs.csv", index=False)
    table = load_runs(tmp_path / "runs.csv")
    assert len(table.usable) == len(n)
    return table.warnings


N, RATIO = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(5, 200, 4)))
LOSS = predict(BESIROGLU, N, N * RATIO)


def test_sound_runs_raise_none(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, N, N * RATIO, LOSS) == ()


@pytest.mark.parametrize(
    ("n", "d", "loss", "said"),
    [
        (N / 1e6, N * RATIO / 1e9, LOSS, "models have fewer than 1000 parameters: is n_params in millions"),
        (N / 1e3, N * RATIO / 1e9, LOSS, "saw fewer tokens than they have parameters"),
        (
            N * RATIO,
            N,
            LOSS,
            "20 of 20 runs saw fewer tokens than they have parameters: are n_params and n_tokens swapped",
        ),
        (N, N * RATIO, LOSS / 5, "losses are below 0.7 nats a token"),
        (N, N * RATIO, np.exp(LOSS), "losses are above 15"),
        (
            np.tile(N[:10], 2),
            np.tile((N * RATIO)[:10], 2),
            np.tile(LOSS[:10], 2),
            "10 of 20 runs have the N, D and loss",
        ),
    ],
)
def test_what_looks_wrong_is_asked_about(
    tmp_path: Path, n: np.ndarray, d: np.ndarray, loss: np.ndarray, said: str
) -> None:
    assert any(said in warning for warning in warnings_of(tmp_path, n, d, loss))


def test_numbers_at_the_ends_of_floats_are_asked_about_too(tmp_path: Path) -> None:
    n, d = np.full(6, 1e-300), np.full(6, 1e300)
    with np.errstate(all="raise"):
        said = warnings_of(tmp_path, n, d, np.linspace(2, 3, 6))
    assert ["fewer than 1000 parameters" in warning for warning in said] == [True]


def test_copies_are_named_and_seeds_are_none(tmp_path: Path) -> None:
    n, d, loss = (np.append(x, x[3]) for x in (N, N * RATIO, LOSS))
    (said,) = warnings_of(tmp_path, n, d, loss)
    assert said.startswith("1 of 21 runs have the N, D and loss of another to the last digit (row-21)")
    loss[-1] *= 1 + 1e-6
    assert warnings_of(tmp_path, n, d, loss) == ()
