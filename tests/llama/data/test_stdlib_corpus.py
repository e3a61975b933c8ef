from __future__ import annotations

import ast
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from llama.data.document import EMPTY, NOT_PARSED, NOT_UTF8
from llama.data.stdlib_corpus import Module, read_code, read_prose, stdlib_modules
from llama.errors import UserError

SOURCE = '''\
#!/usr/bin/env python
"""Module é docstring."""

import os


class A:
    """Class docstring,

        indented.
    """

    x = "not a docstring"

    def only(self):
        """Only a docstring."""

    async def semicolon(self): "one line"; return 1

    def comment(self):
        ("in brackets")  # a comment stays
        return """not a docstring"""
'''


def code_and_prose(source: bytes) -> tuple[str, str]:
    modules = [Module("m.py", source)]
    (code,) = read_code(modules, skipped=Counter())
    return code.text, next(read_prose(modules, skipped=Counter())).text


def docstrings(code: str) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def test_docstrings_are_taken_out_of_code_and_gathered_as_prose() -> None:
    code, prose = code_and_prose(SOURCE.encode())
    assert docstrings(code) == []
    assert prose == (
        "Module é docstring.\n\n\nClass docstring,\n\nindented.\n\n\nOnly a docstring.\n\n\none line\n\n\nin brackets\n"
    )
    for kept in ('x = "not a docstring"', "# a comment stays", 'return """not a docstring"""', "return 1", "#!/usr"):
        assert kept in code
    assert "def only(self):\n        pass\n" in code


def test_line_ends_of_windows_are_understood() -> None:
    code, prose = code_and_prose(SOURCE.replace("\n", "\r\n").encode())
    assert (code, prose) == code_and_prose(SOURCE.encode())


def test_modules_that_cannot_be_read_are_counted() -> None:
    modules = [Module("a.py", b"x = '\xff'"), Module("b.py", b"print 'two'"), Module("c.py", b'"""Only prose."""\n')]
    skipped: Counter[str] = Counter()
    assert list(read_code(modules, skipped=skipped)) == []
    assert skipped == {NOT_UTF8: 1, NOT_PARSED: 1, EMPTY: 1}


def test_the_running_interpreters_library_gives_both_domains() -> None:
    modules = stdlib_modules()
    assert [module.name for module in modules] == sorted(module.name for module in modules)
    assert "json/decoder.py" in [module.name for module in modules]
    folders = {folder for module in modules for folder in module.name.split("/")[:-1]}
    assert "unittest" in folders
    assert not folders & {"site-packages", "dist-packages", "test", "tests"}
    some = modules[::10]
    skipped: Counter[str] = Counter()
    code = list(read_code(some, skipped=skipped))
    assert len(code) + sum(skipped.values()) == len(some)
    assert [document.id for document in code if docstrings(document.text)] == []
    prose = list(read_prose(some, skipped=Counter()))
    assert any(document.id == "pydoc_data.topics:lambda" for document in prose)
    assert all("CPython" in document.origin or "PyPy" in document.origin for document in code + prose)


def test_an_interpreter_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="no Python sources"):
        stdlib_modules()


def test_folders_that_are_not_the_library_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "good.py",
        "pkg/good.py",
        "dist-packages/x.py",
        "site-packages/pkg/x.py",
        "pkg/tests/x.py",
        "test/x.py",
        "config-3.11-x/x.py",
        "_sysconfigdata__linux.py",
        "sitecustomize.py",
        "pkg/data.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert [module.name for module in stdlib_modules()] == ["good.py", "pkg/good.py"]
