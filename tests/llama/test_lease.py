import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llama.errors import Fenced
from llama.lease import STALE_SECONDS, Lease, LeaseHeld, Owner, acquire, current_owner
from llama.records import write_record

HOLD = "import sys; from pathlib import Path; from llama.lease import acquire; acquire(Path(sys.argv[1]), attempt=7); {then}"


def run_holder(folder: Path, then: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), str(folder)], stdout=subprocess.PIPE, text=True
    )


def test_a_live_owner_keeps_others_out_and_is_named(tmp_path: Path) -> None:
    with acquire(tmp_path, attempt=1), pytest.raises(LeaseHeld) as held:
        acquire(tmp_path, attempt=1)
    assert held.value.owner.pid == os.getpid()


def test_a_released_lease_is_taken_with_a_higher_number(tmp_path: Path) -> None:
    with acquire(tmp_path, attempt=1) as first:
        pass
    with acquire(tmp_path, attempt=2) as second:
        assert second.number == first.number + 1
    assert current_owner(tmp_path) is None


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    holder = run_holder(tmp_path, "print('held', flush=True); sys.stdin.read()")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    owner = current_owner(tmp_path)
    assert owner is not None
    assert (owner.pid, owner.attempt) == (holder.pid, 7)
    holder.kill()
    holder.wait()
    with acquire(tmp_path, attempt=8) as lease:
        assert lease.number == 2


def test_a_writer_that_was_overtaken_is_fenced(tmp_path: Path) -> None:
    with acquire(tmp_path, attempt=1) as late:
        late.check()
        write_record(tmp_path / "lease" / "000002.json", Owner(host="elsewhere", pid=1, process_start=0.0, attempt=2))
        with pytest.raises(Fenced):
            late.check()


def test_an_owner_elsewhere_lives_by_its_beat(tmp_path: Path) -> None:
    path = tmp_path / "lease" / "000001.json"
    path.parent.mkdir()
    write_record(path, Owner(host="elsewhere", pid=1, process_start=0.0, attempt=1))
    assert current_owner(tmp_path) is not None
    silent = time.time() - STALE_SECONDS - 1
    os.utime(path, (silent, silent))
    assert current_owner(tmp_path) is None


def test_one_of_many_racing_for_a_lease_gets_it(tmp_path: Path) -> None:
    def attempt(number: int) -> Lease | None:
        try:
            return acquire(tmp_path, attempt=number)
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(16) as pool:
        leases = [lease for lease in pool.map(attempt, range(32)) if lease is not None]
    assert len(leases) == 1


def test_a_lease_is_released_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = acquire(tmp_path, attempt=1)

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full_disk)
    with lease:
        pass
    monkeypatch.undo()
    assert current_owner(tmp_path) is None


def test_an_empty_lease_file_holds_only_until_its_beat_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "lease" / "000001.json"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(LeaseHeld, match="somebody whose lease is damaged"):
        acquire(tmp_path, attempt=1)
    silent = time.time() - STALE_SECONDS - 1
    os.utime(path, (silent, silent))
    with acquire(tmp_path, attempt=1) as lease:
        assert lease.number == 2
