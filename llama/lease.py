"""Who may write to a folder: numbered leases, so that a writer which lost its place finds out before it commits.

    <folder>/lease/000003.json    the third owner; the highest number holds the lease

A lease is taken by creating the next number exclusively, which one of several racing processes can do. Its number is a
fencing number: it only grows, and a writer checks that its own is still the highest before it marks anything complete.
A daemon thread touches the file, so that owners on other machines can be seen to be alive. A released lease has the
modification time 0, since that can be set on a full disk too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from uuid import uuid4

import psutil

from llama.errors import Fenced, UserError
from llama.records import Record, read_record, write_record

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""An owner on another machine whose beat is older than this is taken for dead. Clocks must agree better than that."""

#: Who finds a run held waits this long: until a holder that died has gone stale, and a little more.
LEASE_WAIT_SECONDS = STALE_SECONDS + 15.0


class Owner(Record):
    """The process behind a lease."""

    host: str
    pid: int
    process_start: float
    """Unix seconds: tells a process from a later one with the same pid."""
    attempt: int

    @property
    def name(self) -> str:
        """As messages say it."""
        if self.pid == 0:
            return f"somebody whose lease is damaged (taken for dead after {STALE_SECONDS:g} seconds without a beat)"
        return f"process {self.pid} on {self.host}"


class LeaseHeld(Exception):
    """Another live process holds the lease, and may leave it; `owner` says which."""

    def __init__(self, folder: Path, owner: Owner):
        super().__init__(f"{folder} is held by {owner.name}")
        self.owner = owner


class Lease:
    """A held lease. Use as a context manager; `check` before every commit."""

    def __init__(self, path: Path):
        self._path = path
        self._stop = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._beats.start()

    @property
    def number(self) -> int:
        return int(self._path.stem)

    def check(self) -> None:
        """Raise Fenced when another owner has taken over."""
        if _highest(self._path.parent) != self.number:
            raise Fenced(f"{self._path.parent.parent} was taken over by another process; this one stops writing")

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                os.utime(self._path)
            except OSError:  # a storage hiccup costs one beat, and a lost lease shows in `check`
                continue

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beats.join()
        with contextlib.suppress(OSError):  # storage that is gone must not hide why we leave; the process's end will do
            os.utime(self._path, (0, 0))


def acquire(folder: Path, *, attempt: int, wait_seconds: float = 0.0) -> Lease:
    """Take the lease of `folder`, waiting up to `wait_seconds` for a live owner to leave.

    Raises:
        LeaseHeld: another live process holds it.
    """
    leases = folder / "lease"
    leases.mkdir(parents=True, exist_ok=True)
    me = Owner(host=_host(), pid=os.getpid(), process_start=psutil.Process().create_time(), attempt=attempt)
    deadline = time.monotonic() + wait_seconds
    while True:
        highest = _highest(leases)
        owner = current_owner(folder)
        if owner is None:
            path = leases / f"{highest + 1:06d}.json"
            if _create(path, me):
                return Lease(path)
        elif time.monotonic() >= deadline:
            raise LeaseHeld(folder, owner)
        else:
            time.sleep(0.2)


def current_owner(folder: Path) -> Owner | None:
    """The live owner of `folder`, or None where nobody holds it."""
    highest = _highest(folder / "lease")
    if highest == 0:
        return None
    path = folder / "lease" / f"{highest:06d}.json"
    age_seconds = time.time() - path.stat().st_mtime
    try:
        owner = read_record(path, Owner)
    except UserError:  # a crash of the machine can leave an empty file: its owner lives only as long as it beats
        owner = Owner(host="unknown", pid=0, process_start=0.0, attempt=0)
    if owner is None or path.stat().st_mtime == 0 or not _is_alive(owner, age_seconds):
        return None
    return owner


@dataclass(frozen=True, kw_only=True)
class Tenure:
    """One owner's time with a lease, for people to read: an attempt at a run's segment, or a launch of a sweep."""

    number: int
    owner: Owner | None
    """None where its file is unreadable."""
    end: Literal["held", "left", "died"]
    """Held still; left in good order; or died without leaving it, killed or its machine gone."""


def tenures(folder: Path) -> list[Tenure]:
    """All who held the lease of `folder`, in order."""
    found = []
    live = current_owner(folder)
    paths = sorted((folder / "lease").glob("[0-9]*.json"), key=lambda path: int(path.stem))
    for path in paths:
        try:
            owner = read_record(path, Owner)
            left = path.stat().st_mtime == 0
        except (UserError, FileNotFoundError):
            owner, left = None, False
        end: Literal["held", "left", "died"] = "left" if left else "died"
        if live is not None and path == paths[-1]:
            end = "held"
        found.append(Tenure(number=int(path.stem), owner=owner, end=end))
    return found


def _create(path: Path, owner: Owner) -> bool:
    """Write a whole lease under a private name and link it in: the link fails if the number is taken."""
    private = path.with_name(f".{path.stem}.{uuid4().hex}")
    try:
        write_record(private, owner)
        os.link(private, path)
    except FileExistsError:
        return False
    finally:
        private.unlink(missing_ok=True)
    return True


def _is_alive(owner: Owner, age_seconds: float) -> bool:
    if owner.host != _host():
        return age_seconds < STALE_SECONDS
    try:
        process = psutil.Process(owner.pid)
        return abs(process.create_time() - owner.process_start) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _highest(leases: Path) -> int:
    return max((int(path.stem) for path in leases.glob("[0-9]*.json")), default=0)


def _host() -> str:
    """This machine since its last boot, and this container: elsewhere our pids mean other processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        pids = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return f"{socket.gethostname()}-{int(psutil.boot_time())}"
    return f"{socket.gethostname()}-{boot}-{str(pids).strip('pid:[]')}"
