"""Which sweep folder is mirrored, and by whom: a lasting id, and a lock that ends with its process.

Two uploaders at once would race to create one run twice. The launcher's lease keeps a second launcher out; this keeps a
`sync` out of a launch. The id ties the folder to its MLflow experiment, since names clash on a shared server.
"""

from __future__ import annotations

import fcntl
import secrets
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from llama.errors import UserError
from llama.records import Record, read_record, write_record

IDENTITY = "mirror.json"
LOCK = "mirror.lock"


class Identity(Record):
    """`mirror.json` in the sweep's folder."""

    mirror_id: str


class Claimed(Exception):
    """Another process mirrors this sweep now."""


class Claim:
    """The right to mirror one sweep. Use as a context manager, or `acquire` and `release`."""

    def __init__(self, storage: Path, sweep: str):
        self._folder = storage / "sweeps" / sweep
        self._lock: TextIOWrapper | None = None

    def acquire(self) -> str:
        """Take the lock, where this object does not hold it yet; returns the sweep's lasting id.

        Raises:
            Claimed: another process on this machine holds it.
            UserError: the sweep's folder can't be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = _locked(self._folder / LOCK)
            identity = read_record(self._folder / IDENTITY, Identity)
            if identity is None:
                identity = Identity(mirror_id=secrets.token_hex(8))
                write_record(self._folder / IDENTITY, identity)
        except BlockingIOError:
            raise Claimed(f"another isoloss process is mirroring {self._folder} now") from None
        except OSError as error:
            raise UserError(f"the sweep's folder {self._folder} can't be written: {error.strerror}") from None
        return identity.mirror_id

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _locked(path: Path) -> TextIOWrapper:
    """Open and lock; the lock goes when the file is closed, by whatever end the process finds."""
    file = open(path, "a")  # noqa: SIM115 - it stays open for as long as the lock is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
