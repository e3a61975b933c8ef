"""What commands print: results on stdout, progress beside them on stderr, so that --json can be piped."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_WIDTH = 130
#: Prose on more than this is hard to read, and what is no terminal has no width.
PROSE_WIDTH = 110


def say(line: str) -> None:
    print(line, flush=True)


def say_wrapped(lines: Iterable[str]) -> None:
    """Sentences, one or more a line, broken between words to fit the terminal; what goes on is set in."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else PROSE_WIDTH
    for line in lines:
        words = line.removeprefix("- ")
        wrapped = textwrap.fill(
            words,
            max(40, min(PROSE_WIDTH, columns)),
            initial_indent="- " if words != line else "",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        say(wrapped)


def note(line: str) -> None:
    """Progress beside a result, on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_table(table: RenderableType) -> None:
    """Where the output is no terminal its width is unknown: wide enough for every column."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, allow_nan=False))
