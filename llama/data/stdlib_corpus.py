"""Real text that every machine has: the running interpreter's own standard library, as `code` and as `prose`.

`code` is the modules' source with the docstrings taken out by their syntax tree positions; it still parses. `prose` is
the docstrings, dedented, one document a module, and the manual's topics that `help()` shows. Test suites, generated
tables and files that are written when Python is installed are left out: some distributions ship no tests, and the same
Python version then gives nearly the same corpus on every machine.
"""

from __future__ import annotations

import ast
import functools
import os
import platform
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llama.data.document import EMPTY, NOT_PARSED, NOT_UTF8, Document
from llama.errors import UserError

_LEFT_OUT_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",  # generated character tables
    "pydoc_data",  # its one string is prose, read apart
    "__pycache__",
}
# Written at installation: this machine's paths and its owner's hooks.
_LEFT_OUT_FILES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")

TOPICS = "pydoc_data.topics"


class Module(NamedTuple):
    """One module's source, as its file's bytes."""

    name: str
    """Path below the standard library's folder, with slashes: `json/decoder.py`."""
    source: bytes


def stdlib_modules() -> list[Module]:
    """The standard library's own modules, by name.

    Raises:
        UserError: this interpreter has no standard library in source (a frozen or zipped one).
    """
    library = Path(sysconfig.get_path("stdlib"))
    modules: list[Module] = []
    for folder, below, files in os.walk(library):
        below[:] = [name for name in below if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-")]
        for name in files:
            path = Path(folder, name)
            if name.endswith(".py") and not name.startswith(_LEFT_OUT_FILES) and path.is_file():
                modules.append(Module(path.relative_to(library).as_posix(), path.read_bytes()))
    if not modules:
        raise UserError(
            f"no Python sources in the standard library's folder {library}: take `files` as the source instead"
        )
    return sorted(modules)


def origin() -> str:
    """The library that this interpreter runs on, such as `CPython 3.11.7`."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def read_code(modules: list[Module], *, skipped: Counter[str]) -> Iterator[Document]:
    """One document a module: its source without docstrings."""
    for module in modules:
        parsed = _parse(module.source)
        if isinstance(parsed, str):
            skipped[parsed] += 1
        elif parsed.code.strip():
            yield Document(id=module.name, text=parsed.code, origin=f"{origin()} {module.name}")
        else:
            skipped[EMPTY] += 1


def read_prose(modules: list[Module], *, skipped: Counter[str]) -> Iterator[Document]:
    """One document a module that has docstrings, then one a topic of the language manual."""
    for module in modules:
        parsed = _parse(module.source)
        if isinstance(parsed, str):
            skipped[parsed] += 1
        elif parsed.docstrings:
            text = "\n\n\n".join(parsed.docstrings) + "\n"
            yield Document(id=module.name, text=text, origin=f"{origin()} {module.name}")
    for topic, text in sorted(manual_topics().items()):
        yield Document(id=f"{TOPICS}:{topic}", text=text, origin=f"{origin()} {TOPICS}")


def manual_topics() -> dict[str, str]:
    """The language manual's chapters as `help()` shows them, by topic; empty where a distribution leaves them out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return {topic: textwrap.dedent(text) for topic, text in topics.items() if text.strip()}


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class _Parsed(NamedTuple):
    code: str
    docstrings: list[str]


@functools.lru_cache(maxsize=2048)  # `code` and `prose` read the same modules, and parsing them is most of the cost
def _parse(source: bytes) -> _Parsed | str:
    """A module's code and docstrings apart, or the reason why it has neither."""
    try:
        text = source.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return NOT_UTF8
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return NOT_PARSED
    documented = [
        node for node in ast.walk(tree) if isinstance(node, _Documented) and ast.get_docstring(node) is not None
    ]
    documented.sort(key=lambda node: node.body[0].lineno)
    docstrings = [docstring for node in documented if (docstring := ast.get_docstring(node) or "").strip()]
    return _Parsed(_without_docstrings(text, documented), docstrings)


def _without_docstrings(text: str, documented: list[_Documented]) -> str:
    """The source less each node's docstring; a body that was nothing else becomes `pass`."""
    source = text.encode()
    line_starts = [0]
    for line in source.split(b"\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    kept: list[bytes] = []
    position = 0
    for node in documented:
        statement = node.body[0]
        assert statement.end_lineno is not None
        assert statement.end_col_offset is not None
        start = line_starts[statement.lineno - 1] + statement.col_offset  # columns of the syntax tree are UTF-8 bytes
        end = line_starts[statement.end_lineno - 1] + statement.end_col_offset
        if len(node.body) == 1 and not isinstance(node, ast.Module):
            kept += [source[position:start], b"pass"]
        else:
            end += len(_SEPARATOR.match(source, end)[0])  # type: ignore[index]
            line_start, line_end = line_starts[statement.lineno - 1], line_starts[statement.end_lineno]
            if not source[line_start:start].strip() and not source[end:line_end].strip():
                start, end = line_start, line_end
            kept.append(source[position:start])
        position = end
    return b"".join([*kept, source[position:]]).decode().lstrip("\n")


_SEPARATOR = re.compile(rb"(?:[ \t]*;[ \t]*)?")  # after a docstring with more statements on its line
