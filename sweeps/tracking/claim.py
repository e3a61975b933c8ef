"""Which sweep folder is mirrored, and by whom: a lasting id, and a lock that ends with its process.

Two uploaders at once would race to create one run twice. The launcher's lease keeps a second launcher out; this keeps a
`sync` out of a launch. The id ties the folder to its MLflow experiment, since names clash on a shared server.
"""

from __future__ import annotations

import fcntl
import secrets
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
    """Holds the right to mirror one sweep while it is entered.

    Raises (on entering):
        Claimed: another process on this machine holds it.
        UserError: the sweep's folder can't be written.
    """

    def __init__(self, sweep_folder: Path):
        self._folder = sweep_folder

    def __enter__(self) -> str:
        """Returns the sweep's lasting id."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self._folder / LOCK, "a")
        except OSError as error:
            raise UserError(f"the sweep's folder {self._folder} can't be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Claimed(f"{self._folder} is being mirrored by another process") from None
        identity = read_record(self._folder / IDENTITY, Identity)
        if identity is None:
            identity = Identity(mirror_id=secrets.token_hex(8))
            write_record(self._folder / IDENTITY, identity)
        return identity.mirror_id

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()
