"""Runs whose own numbers speak against them, each named with its reason."""

import pandas as pd
import pytest

from analysis.runs.read_sweep import read_sweep
from analysis.runs.suspect_runs import suspect_runs, suspect_warning
from analysis.runs.table import make_frame
from tests.analysis.synthetic import write_sweep


def row(name: str, n_tokens: float, loss: float, **changes: object) -> dict[str, object]:
    values = {"run_id": f"id-{name}", "name": name, "n_params": 1e5, "n_tokens": n_tokens, "loss": loss, "seed": 0}
    return values | {"peak_lr": 0.01, "status": "finished"} | changes


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return make_frame(rows)


def test_a_longer_run_above_a_shorter_one_is_suspect_and_the_shorter_one_is_not() -> None:
    found = suspect_runs(frame(row("short", 1e6, 3.0), row("long", 4e6, 3.1), row("longer", 8e6, 2.9)))
    assert found == {
        "id-long": ("its loss 3.1 is above the 3 of short, which saw 1.0M tokens to its 4.0M",),
    }


@pytest.mark.parametrize(
    "other",
    [
        row("long", 4e6, 3.01),  # within what validation noise makes of equals
        row("long", 4e6, 3.1, n_params=2e5),
        row("long", 4e6, 3.1, peak_lr=0.02),
        row("long", 4e6, 3.1, seed=1),
        row("long", 4e6, 3.1, status="diverged", excluded="diverged: nan"),
    ],
    ids=["noise", "another size", "another rate", "another seed", "not in use"],
)
def test_only_runs_that_compare_are_held_against_each_other(other: dict[str, object]) -> None:
    assert suspect_runs(frame(row("short", 1e6, 3.0), other)) == {}


def test_copies_spikes_repetition_and_unusable_ends_are_named() -> None:
    found = suspect_runs(
        frame(
            row("first", 1e6, 3.0),
            row("copy", 1e6, 3.0, seed=1),
            row("spiky", 2e6, 2.9, skipped_updates=3.0),
            row("calm", 2e6, 2.9, skipped_updates=0.0, n_params=2e5),
            row("repeated", 3e6, 2.8, unique_tokens=5e5),
            row("twice", 3e6, 2.7, unique_tokens=1.5e6, n_params=2e5),
            row("short", 3e6, 2.7, excluded="mid-schedule: stopped at 1 of 3 planned tokens"),
        )
    )
    assert {name.removeprefix("id-"): reasons for name, reasons in found.items()} == {
        "copy": ("it has the N, D and loss of first to the last digit",),
        "spiky": ("3 of its updates were skipped as spikes",),
        "repeated": ("it reads its text 6.0 times, and beyond 4 epochs repeated tokens are worth less than new ones",),
        "short": ("no fit uses it: mid-schedule: stopped at 1 of 3 planned tokens",),
    }


def test_one_warning_names_a_few_and_says_that_they_stay() -> None:
    rising = [row("short", 1e6, 3.0)] + [row(f"long-{k}", 2e6 + k, 3.1 + k / 10) for k in range(5)]
    assert suspect_warning(frame(rising[0])) is None
    said = suspect_warning(frame(*rising))
    assert said is not None
    assert said.startswith("5 of 6 runs are suspect, and stay in use (long-0: its loss 3.1 is above")
    assert said.endswith("; and 2 more)")


def test_a_sweeps_table_warns_of_them(tmp_path) -> None:
    """A corpus so small that runs read it many times."""
    sweep = write_sweep(tmp_path, noise=0.001, train_tokens={"code": 40_000, "prose": 40_000})
    (said,) = [text for text in read_sweep(sweep.folder).warnings if "suspect" in text]
    assert "reads its text" in said
