"""The peer of `cluster.ray_tasks`: the same pieces of work on Ray Data, whose own loop hands them out."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from cluster.ray_tasks import RayTasks

W = TypeVar("W")
R = TypeVar("R")


class RayDataTasks(RayTasks):
    """Rows are works, one a block, mapped by as many tasks at once as there are cores."""

    def open(self) -> None:
        """Start Ray with Ray Data imported here and in its workers."""
        import ray.data

        super().open()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def _finished(self, do: Callable[[W], R], works: Sequence[W]) -> Iterator[tuple[int, R]]:
        import ray.data

        rows = [{"place": place, "work": pickle.dumps(work)} for place, work in enumerate(works)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _call,
                fn_args=(do,),
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=min(self.workers, len(rows))),
            )
        for row in results.iter_rows():
            yield row["place"], pickle.loads(row["result"])


def _call(row: dict[str, Any], do: Callable[[Any], Any]) -> dict[str, Any]:
    return {"place": row["place"], "result": pickle.dumps(do(pickle.loads(row["work"])))}
