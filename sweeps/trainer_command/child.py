"""The command as a child process of the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from llama.errors import UserError
from sweeps.trainer_command import guard

STDOUT, STDERR = "stdout.log", "stderr.log"
#: Of what the command said last, what a failure quotes.
_QUOTED_BYTES = 2_000
_QUOTED_LINES = 12


class Child:
    """Runs the command in `cwd`, its output in `folder`. Use as a context manager: at its end nothing of it is left.

    Raises:
        UserError: `cwd` isn't there.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, cwd: Path, environment: dict[str, str]):
        if not cwd.is_dir():
            raise UserError(f"trainer.command runs in the folder of the sweep's YAML, {cwd}, which isn't there")
        self._stderr = folder / STDERR
        held, self._pipe = os.pipe()
        try:
            with open(folder / STDOUT, "wb") as out, open(self._stderr, "wb") as err:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", guard.__file__, str(held), *command],
                    cwd=cwd,
                    env=environment,
                    pass_fds=[held],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(held)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):  # what the command left running in its group goes too
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._pipe)

    def wait(self, seconds: float) -> int | None:
        """The exit code, 128 and more for a signal as a shell has it; None while it runs."""
        try:
            return self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def leave(self, seconds: float) -> int | None:
        """Ask it to leave by SIGTERM and wait so long; its exit code, None where it stayed."""
        self._guard.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while (code := self.wait(0.1)) is None and time.monotonic() < deadline:
            pass
        return code

    def last_words(self) -> str:
        """The end of its stderr."""
        with open(self._stderr, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _QUOTED_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-_QUOTED_LINES:])
