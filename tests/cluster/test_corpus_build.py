"""A corpus on Ray: the same bytes as in one process, whatever dies on the way."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_tasks import RayTasks, WorkFailed, WorkLost
from llama.data.building.build import build_corpus
from llama.data.building.progress import Progress
from llama.data.sources import CorpusSpec, DomainSpec
from llama.errors import UserError

from ..llama.data.conftest import invented_text, small_spec, write_jsonl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray's workers are watched by Linux means")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[RayTasks]:
    with RayTasks(workers=2) as execute:
        yield execute


def corpus_spec(folder: Path) -> CorpusSpec:
    for name, first in (("a", 0), ("b", 40), ("c", 1000)):
        write_jsonl(folder / f"{name}.jsonl", [invented_text(n, 50) for n in range(first, first + 60)])
    return small_spec(
        x=DomainSpec(weight=1.0, files=["a.jsonl", "b.jsonl"]), y=DomainSpec(weight=1.0, files=["c.jsonl"])
    )


def test_the_bytes_are_those_of_one_process_through_a_stop_and_a_resume(
    tmp_path: Path, two_workers: RayTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = corpus_spec(tmp_path)
    for module in ("texts", "reading", "stages"):
        monkeypatch.setattr(f"llama.data.building.{module}.PART_BYTES", 2000)  # here; the workers cut as ever
    alone = build_corpus(spec, tmp_path / "alone", base=tmp_path, report=lambda line: None)

    def stop(progress: Progress) -> None:
        if progress.stage == "encoding" and progress.done:
            raise KeyboardInterrupt

    storage = tmp_path / "storage"
    with pytest.raises(KeyboardInterrupt):
        build_corpus(spec, storage, base=tmp_path, report=lambda line: None, watch=stop, execute=two_workers)
    told: list[Progress] = []
    corpus = build_corpus(
        spec, storage, base=tmp_path, report=lambda line: None, watch=told.append, execute=two_workers
    )
    assert corpus.manifest == alone.manifest
    for file in alone.folder.iterdir():
        assert (corpus.folder / file.name).read_bytes() == file.read_bytes()
    last = {progress.stage: progress for progress in told}
    assert last["reading"].fresh_bytes == 0
    assert last["encoding"].fresh_bytes < last["encoding"].bytes


def test_a_piece_whose_worker_dies_is_done_again(tmp_path: Path, two_workers: RayTasks) -> None:
    works = [(n, str(tmp_path / "died")) for n in range(6)]
    assert dict(two_workers(die_once, works)) == {n: n * n for n in range(6)}
    assert (tmp_path / "died").exists()


def die_once(work: tuple[int, str]) -> int:
    number, mark = work
    if number == 3 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_errors_come_back_as_they_were(two_workers: RayTasks) -> None:
    with pytest.raises(UserError, match=r"^books\.txt is damaged$"):
        list(two_workers(fail, ["user"]))
    with pytest.raises(OSError, match="No space left") as raised:
        list(two_workers(fail, ["disk"]))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/full")
    with pytest.raises(WorkFailed, match="ZeroDivisionError"):
        list(two_workers(fail, ["bug"]))


def fail(how: str) -> float:
    if how == "user":
        raise UserError("books.txt is damaged")
    if how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "/full")
    return 1 / 0


def test_a_piece_that_always_kills_its_worker_is_given_up(
    two_workers: RayTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.ray_tasks.RETRIES", 1)
    with pytest.raises(WorkLost, match="workers died 2 times over the same work"):
        list(two_workers(die, [0]))


def die(work: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_to_do_starts_no_ray() -> None:
    with RayTasks() as execute:
        assert list(execute(die, [])) == []
        assert not execute.is_open
