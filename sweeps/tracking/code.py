"""Which isoloss is running: its version, and its commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_tags() -> dict[str, str]:
    """Tags for runs that this process trains."""
    tags = {}
    with suppress(PackageNotFoundError):  # it runs from a folder, not installed
        tags["code.version"] = version("isoloss")
    commit = _commit(Path(__file__))
    if commit is not None:
        tags["code.commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def _commit(file: Path) -> str | None:
    """The commit of the checkout that tracks `file`, `-dirty` where it has changes; None outside any checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie in an environment inside somebody else's checkout: only a tracked file counts.
    if git("ls-files", "--error-unmatch", file.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
