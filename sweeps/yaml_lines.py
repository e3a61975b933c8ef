"""Strict YAML: a file in, a validated record out, and every problem named with its line and with what would be right.

PyYAML reads `1e11` as text, `010` as eight, `1:30` as ninety and lets the last of two equal keys win. Here numbers are
numbers as in YAML 1.2 (a whole one in scientific notation, `4e6`, is an integer) and a second equal key is a problem.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from llama.errors import UserError

M = TypeVar("M", bound=BaseModel)
KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULLS = {"", "~", "null"}


class Problem(NamedTuple):
    """One thing wrong in a file."""

    line: int
    where: str
    """Dotted path of the key, or "" for the file as a whole."""
    message: str


def load_record(path: Path, kind: type[M]) -> M:
    """The record that a YAML file holds.

    Raises:
        UserError: the file can't be read, is not YAML, or has problems: one message with all of them, by line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: a YAML file was expected") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse_record(text, kind, source=str(path))


def top_level_keys(path: Path) -> list[str]:
    """Keys of the outermost block, to tell kinds of files apart; none where there is none, as `load_record` will explain."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def parse_record(text: str, kind: type[M], *, source: str) -> M:
    """`load_record` for text at hand; `source` names it in messages.

    Raises:
        UserError: as `load_record`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _refusal(source, [Problem(line, "", f"not valid YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise _refusal(source, [Problem(1, "", f"not valid YAML: {error}")]) from None
    except RecursionError:
        raise _refusal(source, [Problem(1, "", "nested too deep")]) from None
    tree = _Tree()
    value = tree.read(node, ()) if node is not None else None
    if not isinstance(value, dict):
        found = "nothing" if value is None else _show(value)
        problem = Problem(1, "", f"found {found}; a block of keys is right: {', '.join(kind.model_fields)}")
        raise _refusal(source, [problem])
    try:
        record = kind.model_validate(value)
    except ValidationError as error:
        errors = _without_echoes(error.errors(include_url=False), kind, tree)
        found_problems = [p for details in errors for p in _explain(details, kind, tree)]
        raise _refusal(source, tree.problems + found_problems) from None
    if tree.problems:
        raise _refusal(source, tree.problems)
    return record


def refuse(*problems: tuple[str, str]) -> NoReturn:
    """For a model's validators: report (dotted key below the model, message) pairs, each at its own line."""
    raise PydanticCustomError(
        "keyed", "{text}", {"text": "; ".join(m for _, m in problems), "problems": list(problems)}
    )


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint such as `; did you mean 'widths'?`, or nothing."""
    close = _closest(word, known)
    return "" if close is None else f"; did you mean {close!r}?"


def _closest(word: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def repeated(values: Iterable[Hashable]) -> list[Any]:
    """Those that stand more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def listed(values: Iterable[float]) -> str:
    """Numbers as a message names them: ascending, short."""
    return ", ".join(f"{value:g}" for value in sorted(values))


class _Tree:
    """A YAML node tree as plain values, with the line of every key and item, and numbers as they were written."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.numbers: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._problem(node, path, "an alias (*) that contains itself")
            return None
        if len(self.lines) > 100_000:  # aliases of aliases grow without bound
            self._problem(node, path, "more than 100,000 values")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str | int) or isinstance(key, bool):
                text = getattr(key_node, "value", "") if key is not None else ""
                self._problem(key_node, path, f"a key must be a plain word, not {text or 'a list or a block'}")
            elif key in values:
                first = self.lines[(*path, key)]
                self._problem(key_node, (*path, key), f"the key stands twice; the first is in line {first}")
            else:
                self.lines[(*path, key)] = key_node.start_mark.line + 1
                values[key] = self.read(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag not in _PLAIN_TAGS:
            self._problem(node, path, f"the tag {node.tag} is not allowed: plain values only")
            return None
        if node.style is not None:  # in quotes
            return node.value
        value = _plain_value(node.value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers[path] = node.value
        return value

    def _problem(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, _dotted(path), message))

    def place(self, location: Sequence[str | int]) -> KeyPath:
        """The deepest part of a pydantic location that the file has; union tags in it name no key and are passed over."""
        path: KeyPath = ()
        for part in location:
            if (*path, part) in self.lines:
                path = (*path, part)
        return path


_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}


def _plain_value(text: str) -> Any:
    if text.lower() in _NULLS:
        return None
    if text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    digits = text.replace("_", "")
    if _INT.fullmatch(text):
        return int(digits)
    if _FLOAT.fullmatch(text):
        whole = "e" in digits.lower() and abs(Decimal(digits).adjusted()) < 40 and Decimal(digits) % 1 == 0
        return int(Decimal(digits)) if whole else float(digits)
    return text


def _without_echoes(errors: list[ErrorDetails], kind: type[BaseModel], tree: _Tree) -> list[ErrorDetails]:
    """Without what is wrong with the default of a key that the file misspells."""
    unknown = [details["loc"] for details in errors if details["type"] == "extra_forbidden"]
    meant = {(*where[:-1], _closest(str(where[-1]), _keys_at(kind, where[:-1]))) for where in unknown}
    return [
        details
        for details in errors
        if details["type"] == "missing" or details["loc"] not in meant or details["loc"] in tree.lines
    ]


def _explain(error: ErrorDetails, kind: type[BaseModel], tree: _Tree) -> list[Problem]:
    """A pydantic error in a newcomer's words."""
    location, context, found = error["loc"], error.get("ctx", {}), error["input"]
    if error["type"] == "keyed":
        return [_problem_at((*location, *_parts(where)), message, tree) for where, message in context["problems"]]
    if error["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        hint = nearest(str(location[-1]), known) or f"; known keys: {', '.join(known)}"
        return [_problem_at(location, f"unknown key{hint}", tree)]
    if error["type"] == "missing":
        parent = tree.place(location[:-1])
        return [Problem(tree.lines.get(parent, 1), _dotted((*parent, location[-1])), "this key is missing")]
    if error["type"] == "value_error":  # a validator's own sentence
        return [_problem_at(location, str(context["error"]), tree)]
    if error["type"] == "too_short":
        return [_problem_at(location, _too_few(location, found, context["min_length"]), tree)]
    right = _EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be ")).format(**context)
    hint = ""
    if error["type"] == "literal_error" and isinstance(found, str):
        hint = nearest(found, re.findall(r"'([^']+)'", str(context["expected"])))
    shown = tree.numbers.get(tree.place(location)) or _show(found)
    return [_problem_at(location, f"found {shown}; {right} is right{hint}", tree)]


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:g}",
    "literal_error": "{expected}",
}


def _too_few(location: Sequence[str | int], found: Any, least: int) -> str:
    """Of a list or block with too few entries; a block's key is taken for the plural of what it holds."""
    if isinstance(found, Mapping):
        noun = str(location[-1]).removesuffix("s")
        return f"found an empty block; at least {'one' if least == 1 else least} {noun} is right"
    return f"found {f'a list of {len(found)}' if found else 'an empty list'}; a list of at least {least} is right"


def _problem_at(location: Sequence[str | int], message: str, tree: _Tree) -> Problem:
    place = tree.place(location)
    return Problem(tree.lines.get(place, 1), _dotted(place), message)


def _keys_at(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The field names of the model at a location of errors."""
    models = [kind]
    for part in location:
        inner: list[Any] = []
        for model in models:
            if part in model.model_fields:
                inner.extend(_models_in(model.model_fields[str(part)].annotation))
        models = inner or models  # an index, a mapping's key or a union's tag stays at the model
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _show(value: Any) -> str:
    if isinstance(value, str):
        return f"{value!r} (text)"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a block of keys"
    if isinstance(value, list):
        return "a list"
    return repr(value)


def _parts(where: str) -> KeyPath:
    return tuple(int(part) if part.isdigit() else part for part in where.split("."))


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _refusal(source: str, problems: list[Problem]) -> UserError:
    ordered = sorted(dict.fromkeys(problems))
    lines = [f"{source}, line {p.line}: {p.where + ': ' if p.where else ''}{p.message}" for p in ordered]
    return UserError("\n".join(lines))
