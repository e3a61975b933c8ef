"""Who does a stage's pieces of work: this process, one after the other, or an executor with the same call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

W = TypeVar("W")
R = TypeVar("R")


class Execute(Protocol):
    """Call `do` with each piece of work, in any order, side by side or not; yield (place in `works`, result) as each ends.

    `do` is a function of a module and both the works and the results are small and picklable: text goes by files, in a folder
    that every worker sees. What `do` raises is raised here, whatever is still under way.
    """

    def __call__(self, do: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]: ...


def one_by_one(do: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
    """In this process."""
    for place, work in enumerate(works):
        yield place, do(work)
