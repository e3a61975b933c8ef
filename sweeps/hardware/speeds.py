"""How fast each shape of a sweep trains at a place, and how that is known: from finished runs, measured alone, or assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.hardware.assumed_speed import AssumedSpeed
from sweeps.hardware.calibration import Calibration, Speed, SpeedPoint, SpeedSource, TrainedShape


@dataclass(frozen=True, kw_only=True)
class FinishedSpeeds:
    """What finished runs did on this kind of device, with as many cores or as large a share of a GPU."""

    points: tuple[SpeedPoint, ...] = ()
    """One a shape: the tokens of all its runs over their seconds."""
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Speeds at one place. The best evidence wins: a finished run of the same shape, a measurement, one interpolated between
    those, an assumption.
    """

    calibration: Calibration
    """Each shape alone on its cores or its GPU."""
    finished: FinishedSpeeds = FinishedSpeeds()
    assumed: AssumedSpeed | None = None
    """None on a CPU and on a GPU that isn't known."""
    runs_a_gpu: int = 1
    """Runs that share a GPU."""

    def speed(self, shape: TrainedShape) -> Speed | None:
        """Tokens a second of one run beside the others; None where nothing near was measured and nothing can be assumed."""
        if self.assumed is not None and self.assumed.mfu is not None:
            return self._assumption(shape, self.assumed)
        finished = {point.shape: point.tokens_per_second for point in self.finished.points}
        if shape in finished:
            return Speed(finished[shape], "finished")
        alone = [self._beside_others(point) for point in self.calibration.points if point.shape not in finished]
        found = Calibration(points=(*self.finished.points, *alone)).speed(shape)
        if found is None and self.assumed is not None:
            return self._assumption(shape, self.assumed)
        return found

    def sources(self, shapes: Iterable[TrainedShape]) -> dict[SpeedSource | None, int]:
        """How many of the shapes each kind of evidence serves."""
        found = (self.speed(shape) for shape in shapes)
        return dict(Counter(None if speed is None else speed.source for speed in found))

    def _assumption(self, shape: TrainedShape, assumed: AssumedSpeed) -> Speed | None:
        alone = assumed.tokens_per_second(shape)
        return None if alone is None else Speed(self._shared(shape, alone), "assumed")

    def _beside_others(self, point: SpeedPoint) -> SpeedPoint:
        """A speed measured alone, slowed where the GPU has not the time for all that share it; or as measured with them."""
        for shared in self.calibration.shared(point.shape) or [] if self.runs_a_gpu > 1 else []:
            if shared.runs == self.runs_a_gpu:
                return point.model_copy(update={"tokens_per_second": shared.tokens_per_second / shared.runs})
        return point.model_copy(update={"tokens_per_second": self._shared(point.shape, point.tokens_per_second)})

    def _shared(self, shape: TrainedShape, alone: float) -> float:
        """Runs that wait for launches leave the GPU free for each other, until it is busy all the time."""
        if self.assumed is None or self.runs_a_gpu == 1:
            return alone
        batch_tokens = shape.batch_sequences * shape.model.context_length
        return min(alone, batch_tokens / (self.runs_a_gpu * self.assumed.busy_seconds(shape)))
