"""A full disk, said as a person can act on it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama.errors import UserError

#: No space on the device, over the quota, and over the process's limit of file size.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a write that found no room into a UserError that names the folder. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"{folder}: {error.strerror} while writing. What was complete before is whole: make room, or raise the "
            f"quota, and launch again to go on from the last checkpoint"
        ) from error
