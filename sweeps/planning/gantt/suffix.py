"""What a picture's file may be called: asked before anything is worked out."""

from __future__ import annotations

from pathlib import Path

from llama.errors import UserError

SUFFIXES = (".png", ".svg")


def check_suffix(path: Path) -> None:
    """Raise UserError for a file that is neither a PNG nor an SVG by its name."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--gantt is {str(path)!r}: a file that ends in .png or .svg is right")
