"""Options that several commands share, declared once: `takes` adds them to a command and hands it what they ask for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def takes(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace each parameter that is named here by the options of its group; the command gets what the group makes of them.

    A group is a function whose parameters are options. With

        @takes(query=runs_query)
        def fit(runs: RunsArgument, query: RunsQuery) -> None: ...

    the command has RUNS and every option of `runs_query`, in its place, and `query` is what `runs_query` returned.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}
        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options[own.name].values() if own.name in options else [own]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            asked = {
                name: group(**{option: values.pop(option) for option in options[name]})
                for name, group in groups.items()
            }
            command(**values, **asked)

        # What typer reads a command's options from.
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        )
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate
