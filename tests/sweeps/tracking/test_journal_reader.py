import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.errors import UserError
from llama.records import JOURNAL, JournalPoint
from sweeps.tracking.journal_reader import Cursor, JournalReader, Slab, end_points, parse_point, point_rows
from tests.sweeps.tracking.synthetic import START_MS, begin, make_config, make_point, write_points

RUN = make_config(16, 1024 * 40)
POINTS = [make_point(RUN, step) for step in range(1, 13)] + [make_point(RUN, 12, validated=True)]
ALL = 10**9


def journal(folder: Path, points: list[JournalPoint] = POINTS) -> Path:
    write_points(begin(folder, RUN), points)
    return folder / "runs" / RUN.key / JOURNAL


def read_on(reader: JournalReader, most_rows: int, until_bytes: int = ALL) -> list[Slab]:
    slabs = []
    while not slabs or not slabs[-1].is_last:
        slabs.append(reader.next_slab(until_bytes, most_rows))
        reader.take(slabs[-1])
    return slabs


@given(most=st.integers(1, 60), stop_after=st.integers(0, 8))
def test_reading_that_breaks_off_anywhere_goes_on_without_loss_or_repeat(
    tmp_path_factory: pytest.TempPathFactory, most: int, stop_after: int
) -> None:
    path = journal(tmp_path_factory.mktemp("run"))
    whole = [row for point in POINTS for row in point_rows(point)]
    slabs = read_on(JournalReader(path), most)
    assert [row for slab in slabs for row in slab.rows] == whole
    assert all(len(slab.rows) <= max(most, 6) for slab in slabs)  # a point's own rows are never torn apart
    taken = slabs[:stop_after]
    later = JournalReader(path)
    assert later.go_to(Cursor.parse(str(taken[-1].cursor) if taken else None))
    assert [slab.cursor for slab in read_on(later, most)][-1] == slabs[-1].cursor
    again = JournalReader(path)
    again.go_to(Cursor.parse(str(taken[-1].cursor) if taken else None))
    assert [row for slab in taken + read_on(again, most) for row in slab.rows] == whole


def test_a_slab_that_was_not_confirmed_comes_again(tmp_path: Path) -> None:
    reader = JournalReader(journal(tmp_path))
    assert reader.next_slab(ALL, 20) == reader.next_slab(ALL, 20)


def test_no_further_than_may_be_shown_and_no_half_line(tmp_path: Path) -> None:
    path = journal(tmp_path, POINTS[:2])
    size = path.stat().st_size
    with open(path, "a") as file:
        file.write('{"step":3,"tok')
    assert [slab.cursor.journal_bytes for slab in read_on(JournalReader(path), 100)] == [size]
    first = len(path.read_bytes().splitlines(keepends=True)[0])
    assert [slab.cursor.journal_bytes for slab in read_on(JournalReader(path), 100, first)] == [first]


@pytest.mark.parametrize("keep", [1, 11, 12])
def test_a_journal_cut_back_and_written_on_is_not_the_one_that_was_read(tmp_path: Path, keep: int) -> None:
    path = journal(tmp_path)
    reader = JournalReader(path)
    cursor = read_on(reader, 30)[-1].cursor
    kept = sum(len(line) for line in path.read_bytes().splitlines(keepends=True)[:keep])
    later = [point.model_copy(update={"unix_ms": point.unix_ms + 1}) for point in POINTS[keep:]]
    write_points(path.parent, later, keep_bytes=kept)
    assert path.stat().st_size == cursor.journal_bytes  # only the times tell them apart
    assert not reader.go_to(cursor)
    assert not JournalReader(path).go_to(cursor)


def test_a_journal_that_is_shorter_or_gone_is_not_the_one_that_was_read(tmp_path: Path) -> None:
    path = journal(tmp_path)
    reader = JournalReader(path)
    cursor = read_on(reader, 30)[-1].cursor
    path.write_bytes(path.read_bytes()[:-100])
    assert not reader.go_to(cursor)
    path.unlink()
    assert not reader.go_to(cursor)
    assert end_points(path) == (None, [])


def test_its_ends_are_found_without_its_middle(tmp_path: Path) -> None:
    assert end_points(journal(tmp_path / "a")) == (POINTS[0], POINTS[-2:])
    assert end_points(journal(tmp_path / "b", POINTS[:1])) == (POINTS[0], POINTS[:1])
    wide = {f"val/domain {number}/loss": number / 7 for number in range(2000)}
    broad = [JournalPoint(step=2, tokens=2048, unix_ms=START_MS + number, metrics=wide) for number in range(3)]
    assert end_points(journal(tmp_path / "c", [POINTS[0], *broad])) == (POINTS[0], broad)


def test_a_line_that_is_no_point_is_named() -> None:
    with pytest.raises(UserError, match=JOURNAL):
        parse_point(b'{"step": "many"}')


def test_memory_does_not_grow_with_the_journal(tmp_path: Path) -> None:
    peaks = []
    for times in (300, 3000):
        path = journal(tmp_path / str(times), POINTS * times)
        reader = JournalReader(path)
        tracemalloc.start()
        while not reader.next_slab(ALL, 850).is_last:
            reader.take(reader.next_slab(ALL, 850))
        end_points(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 0.2 * path.stat().st_size
