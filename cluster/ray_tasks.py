"""Many small pieces of work as Ray tasks: one a core, the next the moment one ends.

    with RayTasks(workers=2) as execute:
        for place, result in execute(function, works):
            ...

The works and their results are small and picklable; what the work is about, text say, goes by files that all workers see. So
Ray's object store and the driver hold a few hundred bytes a piece, whatever the data weighs. They are tasks, not actors: Ray
keeps the processes of tasks from one call to the next, so what a function imports and caches serves all its works, and later
calls'. Ray Data would do, but hands out the next piece up to 0.2 s late (docs/corpus.md).
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from cluster.session import open_session
from llama.errors import UserError

W = TypeVar("W")
R = TypeVar("R")

#: A piece that took its worker down (out of memory, a lost node) is tried so often again.
RETRIES = 3


class WorkLost(Exception):
    """Workers died over a piece of work, again and again; what was finished is finished."""


class WorkFailed(Exception):
    """A worker raised what it should not have; the message is its traceback."""


class RayTasks:
    """An executor. It starts Ray, or joins the cluster, at its first call, and leaves it at the end of the `with` block."""

    def __init__(self, *, address: str | None = None, workers: int | None = None, preload: Sequence[str] = ()) -> None:
        """Take `workers` cores of this machine, or of the standing cluster at `address`; by default all of them.

        A Ray of our own imports the modules in `preload` in its workers as they start.
        """
        self._address = address
        self._workers = workers
        self._preload = preload
        self._stack = ExitStack()
        self.is_open = False

    def __enter__(self) -> RayTasks:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, do: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
        """Call `do` with each work, side by side; yield (place in `works`, result) as each ends. Ray is up when this returns.

        Raises:
            UserError: no Ray, or as `do`, whose UserError and OSError come back as they were.
            WorkFailed: `do` raised anything else.
            WorkLost: workers died of it.
        """
        if works:
            self.open()
        return self._finished(do, works)

    def _finished(self, do: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
        import ray
        from ray.exceptions import RayError

        call = ray.remote(num_cpus=1, max_retries=0)(_call)
        waiting = list(reversed(range(len(works))))
        running: dict[Any, int] = {}
        losses: Counter[int] = Counter()
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    place = waiting.pop()
                    running[call.remote(do, works[place])] = place
                [ended], _ = ray.wait(list(running))
                place = running.pop(ended)
                try:
                    result, error = ray.get(ended)
                except RayError as lost:
                    losses[place] += 1
                    if losses[place] > RETRIES:
                        raise WorkLost(f"workers died {losses[place]} times over the same work: {lost}") from lost
                    waiting.append(place)
                    continue
                if error is not None:
                    raise error
                yield place, result
        finally:  # on a standing cluster nothing goes on that nobody waits for
            for reference in running:
                ray.cancel(reference, force=True)

    @property
    def workers(self) -> int:
        """Once open."""
        assert self._workers is not None
        return self._workers

    def open(self) -> None:
        """Start or join Ray, if that is still to be done.

        Raises:
            UserError: as `open_session`, or the cluster has fewer cores.
        """
        if self.is_open:
            return
        self._stack.enter_context(
            open_session(address=self._address, cpus=self._workers, gpus=0, preload=self._preload)
        )
        self.is_open = True
        import ray

        cores = int(ray.cluster_resources().get("CPU", 0))
        if self._workers is None:
            self._workers = max(1, cores)
        elif self._workers > cores:
            raise UserError(f"--workers {self._workers}: the cluster has {cores} cores")


def _call(do: Callable[[W], R], work: W) -> tuple[R | None, Exception | None]:
    try:
        return do(work), None
    except (UserError, OSError) as raised:  # a person can act on it
        return None, raised
    except Exception:
        return None, WorkFailed(traceback.format_exc())
