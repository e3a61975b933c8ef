"""How many runs share a device: as many as do the most tokens a second together, by measurement, and never past its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from llama.errors import UserError
from llama.sharing import SharedSpeed
from sweeps.words import human

#: Kept free of a device's memory: validation, allocators' fragments, and what else uses it now and then.
RESERVE = 0.1
#: More runs must do so much more together to be worth their memory, and to be told from noise.
WORTH = 1.03


def choose(speeds: Iterable[SharedSpeed]) -> SharedSpeed:
    """The best of what was measured of one shape on one device. Of those that do as much, the fewest runs.

    Raises:
        UserError: nothing was measured, or even one run leaves less than `RESERVE` of the memory.
    """
    measured = sorted(speeds, key=lambda speed: speed.runs)
    if not measured:
        raise UserError("nothing was measured of runs that share a device: --calibrate measures it")
    fitting = [speed for speed in measured if fits(speed)]
    if not fitting:
        one = measured[0]
        raise UserError(
            f"a run takes {human(one.memory_bytes)}B of the device's {human(one.device_bytes)}B, of which {RESERVE:.0%} stays "
            "free: lower micro_batch, or set activation_checkpointing: selective"
        )
    best = fitting[0]
    for speed in fitting[1:]:
        if speed.tokens_per_second > best.tokens_per_second * WORTH:
            best = speed
    return best


def fits(speed: SharedSpeed) -> bool:
    """Whether so many runs leave the reserve free, if each takes what the hungriest took."""
    return speed.runs * speed.memory_bytes <= (1 - RESERVE) * speed.device_bytes


def search(measure: Callable[[int], SharedSpeed], *, at_most: int) -> list[SharedSpeed]:
    """Measure 1, 2, 4, 8 ... runs side by side, until twice as many do no more together, or would not fit."""
    found = [measure(1)]
    while 2 * found[-1].runs <= at_most:
        last = found[-1]
        if 2 * last.runs * last.memory_bytes > (1 - RESERVE) * last.device_bytes:
            break
        try:
            found.append(measure(2 * last.runs))
        except UserError:  # one of them ended, as for want of memory: so many don't fit
            break
        if found[-1].tokens_per_second <= last.tokens_per_second * WORTH:
            break
    return found


def share_of(runs: int) -> float:
    """The share of a device that each of so many runs takes: rounded down to four digits, so that all fit."""
    return 1.0 if runs == 1 else math.floor(1e4 / runs) / 1e4


def runs_a_gpu(gpus: float) -> int:
    """Runs that share a GPU where each takes so much of one; 1 where a run has whole ones."""
    return int(1 / gpus) if 0 < gpus < 1 else 1


def packing_words(speeds: Sequence[SharedSpeed], device: str) -> str:
    """What was measured, in a sentence."""
    best, alone = choose(speeds), min(speeds, key=lambda speed: speed.runs)
    if best.runs == 1:
        most = max(speed.runs for speed in speeds)
        why = f"{most} together do no more" if most > 1 else "two would not fit"
        return f"one run on a {device}: {why} (measured)"
    of_each, of_one = ("", "") if best.threads == alone.threads else (_threads(best.threads), _threads(alone.threads))
    return (
        f"{best.runs} runs{of_each} on a {device} do {human(best.tokens_per_second)} tokens a second together, "
        f"{best.tokens_per_second / alone.tokens_per_second:.2f} times one alone{of_one} (measured), "
        f"{human(best.memory_bytes)}B each"
    )


def _threads(threads: int) -> str:
    return f" of {threads} thread{'' if threads == 1 else 's'}"
