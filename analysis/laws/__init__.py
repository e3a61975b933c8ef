"""Parametric loss surfaces, one file a law."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llama.errors import UserError

if TYPE_CHECKING:
    from analysis.laws.base import Law

#: Name of a law (and of its module) and its class. All that a new law needs beside its file: what can be asked for by name,
#: the command's help and the laws that a recommendation varies go by this. Classes are imported when asked for.
LAWS = {
    "chinchilla": "Chinchilla",
    "overtraining": "Overtraining",
    "data_constrained": "DataConstrained",
    "skaling": "Skaling",
    "kaplan": "Kaplan",
}


def law_names() -> tuple[str, ...]:
    return tuple(LAWS)


def get_law(name: str) -> Law:
    """The law of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LAWS:
        raise UserError(f"no law is called {name!r}; there are {', '.join(LAWS)}")
    law: type[Law] = getattr(import_module(f"analysis.laws.{name}"), LAWS[name])
    return law()
