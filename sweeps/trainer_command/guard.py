"""Starts the command, hands it the signals that ask it to leave, and ends it when the worker is gone.

Run as `python guard.py FD COMMAND...` in a session, and so a process group, of its own. FD is a pipe whose other end only the
worker holds: it closes however the worker ends, and then the whole group is killed, the command's own children included. On
Linux the command also dies with this process (PR_SET_PDEATHSIG). The standard library alone: it starts fast and stays small.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1
#: A shell's exit codes for a command that isn't there, or can't be run.
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def main() -> int:
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    early: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: early.append(number))
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    try:
        child = subprocess.Popen(
            command, preexec_fn=None if libc is None else lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    for number in SIGNALS:
        signal.signal(number, lambda number, _: child.send_signal(number))
    for missed in early:
        child.send_signal(missed)
    threading.Thread(target=_end_with_the_worker, args=[pipe], daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_the_worker(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written: it returns when the other end closes
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
