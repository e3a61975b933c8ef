"""Which arguments are tables of runs, and which are sweeps."""

from pathlib import Path

import pytest

from sweeps.runs_query import is_table


@pytest.mark.parametrize(
    ("name", "expected"),
    [("runs.csv", True), ("runs.txt", True), ("sweep.yaml", False), ("sweep.yml", False), ("folder", False)],
)
def test_a_sweeps_yaml_is_no_table(tmp_path: Path, name: str, expected: bool) -> None:
    """A file of another ending is taken for a table, which refuses it with its reason."""
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.touch()
    assert is_table(str(path)) == expected
