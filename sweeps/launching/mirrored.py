"""MLflow follows while a launch or a tuning study is at work, and is given some time at its end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from sweeps.tracking import Mirror

#: How long the end waits for MLflow to have everything: an interrupted one less, since it will go on.
MIRROR_SECONDS = 60.0
INTERRUPTED_MIRROR_SECONDS = 5.0


class Mirrored:
    """A mirror that runs inside a `with`; afterwards `trouble` is what kept MLflow from having everything, or None."""

    trouble: str | None = None

    def __init__(self, mirror: Mirror, *, say: Callable[[str], None]) -> None:
        self._mirror, self._say = mirror, say

    def __enter__(self) -> Mirrored:
        self._mirror.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._mirror.is_off:
            self._say("bringing MLflow up to date")
        self.trouble = self._mirror.stop(MIRROR_SECONDS if kind is None else INTERRUPTED_MIRROR_SECONDS).trouble
