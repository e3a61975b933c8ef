"""Many small pieces of work on Ray Data: one a core, the next as one ends.

with RayData(workers=2) as execute:
    for place, result in execute(function, works):
        ...

Rows are the works and their results, pickled; what the work is about, text say, goes by files that all workers see. So the
object store and the driver hold a few hundred bytes a row, whatever the data weighs. They are tasks, not actors: Ray keeps the
processes of tasks from one call to the next, so what a function imports and caches serves all its works, and later calls'.
"""

from __future__ import annotations

import logging
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from cluster.session import open_session
from llama.errors import UserError

W = TypeVar("W")
R = TypeVar("R")

#: Pieces that took a worker down (out of memory, a lost node) are tried so often again while no other piece is finished.
RETRIES = 3


class WorkLost(Exception):
    """Workers died over a piece of work, again and again; what was finished is finished."""


class WorkFailed(Exception):
    """A worker raised what it should not have; the message is its traceback."""


class RayData:
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

    def __enter__(self) -> RayData:
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
        return self._finished(do, dict(enumerate(works)))

    def _finished(self, do: Callable[[W], R], left: dict[int, W]) -> Iterator[tuple[int, R]]:
        from ray.exceptions import RayError

        losses = 0
        while left:
            try:
                for place, result in self._run(do, left):
                    del left[place]
                    losses = 0
                    yield place, result
            except RayError as error:
                losses += 1
                if losses > RETRIES:
                    raise WorkLost(f"workers died {losses} times over the same work: {error}") from error

    def _run(self, do: Callable[[W], R], left: dict[int, W]) -> Iterator[tuple[int, R]]:
        import ray.data

        rows = [{"place": place, "work": pickle.dumps(work)} for place, work in left.items()]
        with warnings.catch_warnings():
            # Ray 2.64 will take these by other names; the version is pinned to one minor.
            warnings.filterwarnings("ignore", "`ray_remote_args", DeprecationWarning)
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _call,
                fn_args=(do,),
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=min(self.workers, len(rows))),
                ray_remote_args_fn=_no_retries,
            )
        for row in results.iter_rows():
            if row["error"] is not None:
                raise pickle.loads(row["error"])
            yield row["place"], pickle.loads(row["result"])

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
            open_session(address=self._address, cpus=self._workers, gpus=0, preload=["ray.data", *self._preload])
        )
        self.is_open = True
        import ray

        cores = int(ray.cluster_resources().get("CPU", 0))
        if self._workers is None:
            self._workers = max(1, cores)
        elif self._workers > cores:
            raise UserError(f"--workers {self._workers}: the cluster has {cores} cores")
        _quiet()


def _no_retries() -> dict[str, int]:
    """Left to itself Ray Data tries for ever, a piece that takes all memory too, and writes to stderr past every logger."""
    return {"max_retries": 0}


def _call(row: dict[str, Any], do: Callable[[Any], Any]) -> dict[str, Any]:
    result = error = None
    try:
        result = pickle.dumps(do(pickle.loads(row["work"])))
    except (UserError, OSError) as raised:  # a person can act on it
        error = pickle.dumps(raised)
    except Exception:
        error = pickle.dumps(WorkFailed(traceback.format_exc()))
    return {"place": row["place"], "result": result, "error": error}


def _quiet() -> None:
    """Ray Data draws its own bars and tells of its plan; who watches has better news."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(
        logging.CRITICAL
    )  # a lost worker is a page of traceback, and is dealt with here
