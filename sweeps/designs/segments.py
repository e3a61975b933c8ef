"""Segments: the stretches of runs between two checkpoints that a launcher schedules, and which of them are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from llama.accounting import training_flops_per_token
from llama.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of one run between two checkpoints: what a launcher schedules, retries, and skips when its result exists.

    A trunk's or a lone run's segment goes on from the run's own checkpoint at `start_step` (or from nothing at step 0); a
    branch's starts from its parent's checkpoint at `start_step`.
    """

    id: str
    run_key: str
    config: RunConfig
    start_step: int
    end_step: int
    needs: tuple[str, ...]
    """Ids of the segments that must be done before."""
    flops: float
    """Training FLOPs of these steps."""

    @property
    def tokens(self) -> int:
        """That it trains on."""
        return (self.end_step - self.start_step) * self.config.batch_tokens

    @property
    def ends_run(self) -> bool:
        """Whether it leaves a DONE; a trunk's segment leaves a checkpoint only."""
        return self.end_step == self.config.steps


def segments_of(runs: Mapping[str, RunConfig]) -> Iterator[Segment]:
    """The segments of a trunk with its branches, or of lone runs. A config works its key out anew each time: it comes along."""
    forks = sorted({config.fork_step for config in runs.values() if config.fork_step is not None})
    ends_at: dict[int, Segment] = {}
    for key, config in runs.items():
        if config.is_trunk:
            for start, fork in pairwise([0, *forks]):
                needs = (ends_at[start].id,) if start else ()
                ends_at[fork] = _segment(key, config, start, fork, needs)
                yield ends_at[fork]
        elif config.fork_step is not None:
            assert config.steps is not None  # a branch has a length
            yield _segment(key, config, config.fork_step, config.steps, (ends_at[config.fork_step].id,))
        else:
            assert config.steps is not None  # only a trunk has none
            yield _segment(key, config, 0, config.steps, ())


def _segment(key: str, config: RunConfig, start: int, end: int, needs: tuple[str, ...]) -> Segment:
    return Segment(
        id=f"{key}@{end}",
        run_key=key,
        config=config,
        start_step=start,
        end_step=end,
        needs=needs,
        flops=float((end - start) * config.batch_tokens * training_flops_per_token(config.model)),
    )


def missing_segments(segments: Iterable[Segment], is_done: Callable[[Segment], bool]) -> list[Segment]:
    """The segments still to be run, in order: every unfinished run's end, and what it needs back to what exists.

    A trunk's segment counts only while some unfinished branch needs it, so a finished sweep stays finished when its trunk's
    checkpoints are gone. `is_done` may read files; it is asked once for each segment at most.
    """
    by_id = {segment.id: segment for segment in segments}
    wanted: set[str] = set()
    checked: set[str] = set()
    waiting = [segment.id for segment in by_id.values() if segment.ends_run]
    while waiting:
        segment = by_id[waiting.pop()]
        if segment.id in checked:
            continue
        checked.add(segment.id)
        if not is_done(segment):
            wanted.add(segment.id)
            waiting.extend(segment.needs)
    return [segment for segment in by_id.values() if segment.id in wanted]
