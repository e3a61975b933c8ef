"""How fast this machine trains, from a cache of measured speeds: plans give seconds where it can, and None where it can't.

One JSON file a set-up (machine, torch, precision, threads), so that machines may share a home folder. No torch here: the
fingerprint comes from files and package metadata, and the measuring is `llama.speed`'s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from llama.accounting import training_flops_per_token
from llama.config import ActivationCheckpointing, ModelConfig, RunConfig, digest
from llama.errors import UserError
from llama.records import Record, read_record, write_record
from llama.sharing import SharedSpeed
from sweeps.designs.numerics import Numerics
from sweeps.hardware.machine import Machine

FORMAT_VERSION = 2

#: No estimate further than this from a measured shape, in FLOPs a token: a guess would not say that it is one.
EXTRAPOLATION_LIMIT = 10.0


class Setup(NamedTuple):
    """What a measured speed holds for."""

    machine: Machine
    numerics: Numerics
    threads: int
    """Of one run."""


class TrainedShape(Record):
    """What a speed is measured of: all in a run that decides how long its step takes on one set-up."""

    model: ModelConfig
    batch_sequences: int
    micro_batch_sequences: int
    activation_checkpointing: ActivationCheckpointing
    compile: bool

    @classmethod
    def of(cls, config: RunConfig) -> TrainedShape:
        return cls(
            model=config.model,
            batch_sequences=config.recipe.batch_sequences,
            micro_batch_sequences=config.micro_batch_sequences,
            activation_checkpointing=config.activation_checkpointing,
            compile=config.compile,
        )


class SpeedPoint(Record):
    """One measured shape."""

    shape: TrainedShape
    tokens_per_second: float
    """Over whole training steps, one run alone on its cores."""


SpeedSource = Literal["finished", "measured", "interpolated", "extrapolated", "assumed"]
"""From finished runs, measured alone on the machine, reckoned from those of other shapes, or assumed of the hardware."""


class Speed(NamedTuple):
    tokens_per_second: float
    source: SpeedSource


class PackingPoint(Record):
    """One shape's runs side by side on one device, measured for 1, 2, 4 ... of them (`sweeps.hardware.packing`)."""

    shape: TrainedShape
    speeds: list[SharedSpeed]
    through_mps: bool | None = None
    """Whether NVIDIA's MPS let them run on a GPU at once; None where it was not noted."""


class CalibrationFile(Record):
    """The cache of one set-up. The set-up is repeated in words, for whoever opens the file."""

    version: int
    setup: str
    points: list[SpeedPoint]
    packing: tuple[PackingPoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The measured speeds of one set-up."""

    points: tuple[SpeedPoint, ...]
    packing: tuple[PackingPoint, ...] = ()
    problem: str | None = None
    """Why the cache could not be used, if it couldn't."""

    def shared(self, shape: TrainedShape) -> list[SharedSpeed] | None:
        """What was measured of this shape's runs side by side."""
        return next((point.speeds for point in self.packing if point.shape == shape), None)

    def speed(self, shape: TrainedShape) -> Speed | None:
        """Training speed of a shape, or None where nothing measured is near.

        Between measured shapes log speed is linear in log FLOPs a token, made monotone first, since a smaller model is never
        slower but for noise. Beyond them the last slope goes on, kept between constant tokens a second and constant FLOPs
        a second. Measured shapes that train the same way, but for the batch, tell more than others: those alone count where
        there are any.
        """
        for point in self.points:
            if point.shape == shape:
                return Speed(point.tokens_per_second, "measured")
        if not self.points:
            return None
        alike = [
            point
            for point in self.points
            if (point.shape.compile, point.shape.activation_checkpointing)
            == (shape.compile, shape.activation_checkpointing)
        ]
        curve = _monotone_curve(alike or self.points)
        x = math.log(training_flops_per_token(shape.model))
        (first_x, first_y), (last_x, last_y) = curve[0], curve[-1]
        for (left_x, left_y), (right_x, right_y) in pairwise(curve):
            if left_x <= x <= right_x:
                share = (x - left_x) / (right_x - left_x)
                return Speed(math.exp(left_y + share * (right_y - left_y)), "interpolated")
        if x == first_x:  # the one measured size, at another batch
            return Speed(math.exp(first_y), "interpolated")
        if max(first_x - x, x - last_x) > math.log(EXTRAPOLATION_LIMIT):
            return None
        if x < first_x:
            slope = _slope(curve[0], curve[1]) if len(curve) > 1 else 0.0
            return Speed(math.exp(first_y + slope * (x - first_x)), "extrapolated")
        slope = _slope(curve[-2], curve[-1]) if len(curve) > 1 else -1.0
        return Speed(math.exp(last_y + slope * (x - last_x)), "extrapolated")


def load(setup: Setup) -> Calibration:
    """What was measured for a set-up. A cache that can't be read is passed over, and `problem` says so."""
    path = _path(setup)
    try:
        stored = read_record(path, CalibrationFile)
    except (UserError, OSError) as error:
        return Calibration(points=(), problem=f"the speed cache was ignored ({error}): measure again with --calibrate")
    if stored is None or stored.version != FORMAT_VERSION:
        return Calibration(points=())
    return Calibration(points=tuple(stored.points), packing=stored.packing)


def store(setup: Setup, points: Iterable[SpeedPoint], packing: Iterable[PackingPoint] = ()) -> Calibration:
    """Add measured points to the cache; a shape measured again replaces its old speed, or its old packing.

    Raises:
        UserError: the cache folder can't be written, or a speed is not a positive number.
    """
    known = load(setup)
    merged = {point.shape: point for point in known.points}
    packed = {point.shape: point for point in (*known.packing, *packing)}
    for point in points:
        if not (point.tokens_per_second > 0 and math.isfinite(point.tokens_per_second)):
            raise UserError(f"a measured speed is {point.tokens_per_second} tokens a second: it must be above 0")
        merged[point.shape] = point
    path = _path(setup)
    record = CalibrationFile(
        version=FORMAT_VERSION,
        setup=_describe(setup),
        points=list(merged.values()),
        packing=tuple(packed.values()),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, record)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder that can"
        ) from None
    return Calibration(points=tuple(merged.values()), packing=tuple(packed.values()))


def _monotone_curve(points: Iterable[SpeedPoint]) -> list[tuple[float, float]]:
    """(log FLOPs a token, log tokens a second), ascending and never rising: pooled where noise made it rise."""
    by_x: dict[float, list[float]] = {}
    for point in points:
        by_x.setdefault(math.log(training_flops_per_token(point.shape.model)), []).append(
            math.log(point.tokens_per_second)
        )
    pools: list[tuple[list[float], list[float]]] = []
    for x in sorted(by_x):
        xs, ys = [x], [_mean(by_x[x])]
        while pools and _mean(pools[-1][1]) < _mean(ys):  # pool adjacent violators (Ayer et al. 1955)
            earlier_xs, earlier_ys = pools.pop()
            xs, ys = earlier_xs + xs, earlier_ys + ys
        pools.append((xs, ys))
    return [(x, _mean(ys)) for xs, ys in pools for x in xs]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return min(0.0, max(-1.0, (right[1] - left[1]) / (right[0] - left[0])))


def _path(setup: Setup) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "isoloss" / f"speed-{digest(_describe(setup))[:16]}.json"


def _describe(setup: Setup) -> str:
    machine, numerics = setup.machine, setup.numerics
    return (
        f"{machine.name}, torch {machine.torch_version} on {machine.device}, {numerics.dtype}, "
        f"{numerics.attention_kernel} attention, {setup.threads} threads a run"
    )
