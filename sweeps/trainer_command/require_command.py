"""Whether the command that trains is there at all, looked at before anything runs."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from llama.errors import UserError

#: Programs whose first argument, where it is no option, is the file that they run.
_INTERPRETERS = re.compile(r"python[\d.]*|bash|sh")


def require_command(command: Sequence[str], *, cwd: Path) -> None:
    """Raise UserError where its program isn't found, or an interpreter's script isn't in `cwd`. Only for this machine: the
    nodes of a cluster may have other programs.
    """
    program, *arguments = command
    shown = f"trainer.command: `{' '.join(command)}`"
    is_path = os.sep in program
    if shutil.which(str(cwd / program) if is_path else program, path=search_path()) is None:
        where = cwd / program if is_path else f"{program} on the PATH"
        raise UserError(f"{shown} can't be run: there is no program {where}")
    if _INTERPRETERS.fullmatch(Path(program).name) and arguments and not arguments[0].startswith("-"):
        script = cwd / arguments[0]
        if not script.exists():
            raise UserError(f"{shown} can't be run: there is no {script} (it is run in the folder of the sweep's YAML)")


def search_path() -> str:
    """Where programs are looked for: first where the Python is that runs isoloss, so that `python` is that one."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
