"""Parametric loss surfaces, one file a law."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama.errors import UserError

if TYPE_CHECKING:
    from analysis.laws.base import Law


def get_law(name: str) -> Law:
    """The law of that name.

    Raises:
        UserError: there is none.
    """
    from analysis.laws.chinchilla import Chinchilla

    laws: dict[str, type[Law]] = {"chinchilla": Chinchilla}
    if name not in laws:
        raise UserError(f"no law is called {name!r}; there is {', '.join(laws)}")
    return laws[name]()
