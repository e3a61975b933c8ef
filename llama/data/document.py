"""What every source yields, and why a source may leave something out."""

from __future__ import annotations

from typing import NamedTuple

# Reasons for which a document is skipped, as the corpus' manifest counts them.
NOT_UTF8 = "not_utf8"
NOT_TEXT = "not_text"
EMPTY = "empty"
NOT_PARSED = "not_parsed"


class Document(NamedTuple):
    """One text that a corpus holds as a whole, in training or held out."""

    id: str
    text: str
    origin: str
    """The file, module or dataset that it came from."""
