import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.errors import UserError
from llama.records import (
    DONE,
    JOURNAL,
    Done,
    JournalPoint,
    RunStatus,
    journal_line,
    read_done,
    read_journal,
    read_status,
)

values = st.none() | st.floats(allow_nan=True, allow_infinity=True)
points = st.builds(
    JournalPoint,
    step=st.integers(0, 10**9),
    tokens=st.integers(0, 10**13),
    unix_ms=st.integers(0, 2 * 10**12),
    metrics=st.dictionaries(st.text(max_size=20), values, max_size=4),
)


@given(st.lists(points, max_size=5), st.integers(0, 60))
def test_a_journal_reads_back_whole_lines_only(
    tmp_path_factory: pytest.TempPathFactory, rows: list[JournalPoint], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    text = "".join(map(journal_line, rows)).encode()
    (folder / JOURNAL).write_bytes(text + b'{"step": 3, "tok'[:cut])
    read = list(read_journal(folder))
    assert [(p.step, p.tokens, p.unix_ms) for p in read] == [(p.step, p.tokens, p.unix_ms) for p in rows]
    for written, found in zip(rows, read, strict=True):
        expected = {k: v if v is not None and math.isfinite(v) else None for k, v in written.metrics.items()}
        assert found.metrics == expected


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 1"):
        list(read_journal(tmp_path))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"outcome": "won"}', "\x00"])
def test_a_corrupt_done_is_named_never_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / DONE).write_text(text)
    with pytest.raises(UserError, match="DONE"):
        read_done(tmp_path)


def test_status_is_derived_from_the_files(tmp_path: Path) -> None:
    assert read_status(tmp_path) is RunStatus.ABSENT
    (tmp_path / "config.json").write_text("{}")
    assert read_status(tmp_path) is RunStatus.STARTED
    (tmp_path / "failure.json").write_text("{}")
    assert read_status(tmp_path) is RunStatus.FAILED
    done = Done(outcome="diverged", reason="x", step=1, tokens=1, flops=1.0, metrics={}, training_seconds=1.0)
    (tmp_path / DONE).write_text(done.model_dump_json())
    assert read_status(tmp_path) is RunStatus.DIVERGED
