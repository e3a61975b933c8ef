"""What commands print: results on stdout, progress beside them on stderr, so that --json can be piped."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_WIDTH = 130


def say(line: str) -> None:
    print(line, flush=True)


def note(line: str) -> None:
    """Progress beside a result, on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_table(table: RenderableType) -> None:
    """Where the output is no terminal its width is unknown: wide enough for every column."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, allow_nan=False))
