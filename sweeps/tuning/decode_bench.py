"""What a search's shapes were measured to cost: a file a measurement, so that a search that goes on takes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.executor import Executor
from llama.config import ModelConfig
from llama.records import InferenceCost, Record, read_record, write_record
from sweeps.hardware.place import Place
from sweeps.launching.measuring import measure_shapes
from sweeps.planning.prepare import Prepared


class Measured(Record):
    """One measurement: what was measured together."""

    costs: dict[str, InferenceCost]


class DecodeBench:
    """A `Measure` on a node that has nothing else of this study's to do."""

    def __init__(self, prepared: Prepared, place: Place, open_executor: Callable[[], Executor], folder: Path) -> None:
        self._prepared, self._place, self._open_executor, self._folder = prepared, place, open_executor, folder

    def __call__(
        self, name: str, shapes: Mapping[str, ModelConfig], run_keys: Mapping[str, Sequence[str]]
    ) -> Mapping[str, InferenceCost]:
        """
        Raises:
            UserError: the measurement failed.
        """
        path = self._folder / f"{name}.json"
        kept = read_record(path, Measured)
        if kept is not None:
            return kept.costs
        costs = measure_shapes(self._prepared, self._open_executor(), self._place, shapes, run_keys)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_record(path, Measured(costs=costs))
        return costs
