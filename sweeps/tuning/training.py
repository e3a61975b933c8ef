"""Trials as runs: stretches trained side by side through the supervisor, under the run folder's contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from cluster.executor import Executor
from cluster.states import Event, State, Summary
from llama.accounting import training_flops_per_token
from llama.config import RunConfig
from llama.metric_names import VAL_LOSS
from llama.records import read_checkpoint_mark, read_done, read_journal
from sweeps.attempts import AttemptLog
from sweeps.designs.segments import Segment
from sweeps.hardware.place import Place
from sweeps.launching.at_work import AtWork
from sweeps.launching.damage import put_damaged_aside
from sweeps.launching.heeding import Heeding
from sweeps.launching.training import ORDERING_FLOPS_PER_SECOND, supervise
from sweeps.planning.prepare import Prepared
from sweeps.storage import Storage
from sweeps.tuning.trials import Reached, Stretch
from sweeps.words import duration


class TrialsFailed(Exception):
    """Runs that failed for good. Their trials stay suggested and untold: the same command tries them again."""


class Progress:
    """Share of the planned training that is done, by FLOPs, and the time that the rest takes if it goes on as so far."""

    def __init__(self, planned_flops: float) -> None:
        self._planned, self._done, self._found = planned_flops, 0.0, 0.0
        self._started = time.monotonic()

    def add(self, flops: float, *, found: bool = False) -> None:
        """Work that was done now, or `found` done already or not needed."""
        self._done += flops
        self._found += flops if found else 0.0

    def __str__(self) -> str:
        elapsed, own = time.monotonic() - self._started, self._done - self._found
        share = min(1.0, self._done / self._planned)
        left = elapsed * (self._planned - self._done) / own if own > 0 else 0.0
        to_go = f", about {duration(left)} to go" if left > 0 else ""
        return f"{share:.0%} of the training; {duration(elapsed)} so far{to_go}"


def flops_of(config: RunConfig, steps: int) -> float:
    """Training FLOPs of so many steps."""
    return float(steps * config.batch_tokens * training_flops_per_token(config.model))


class Trainer:
    """A `Train` that trains. The executor is opened when something is to be trained, and kept from call to call."""

    def __init__(
        self,
        prepared: Prepared,
        place: Place,
        open_executor: Callable[[], Executor],
        progress: Progress,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._prepared, self._place, self._open_executor = prepared, place, open_executor
        self._progress, self._say = progress, say
        self._counted: dict[str, int] = {}
        """Steps of each run that are part of the progress, by its key."""

    def __call__(self, stretches: Sequence[Stretch]) -> dict[str, Reached]:
        """
        Raises:
            TrialsFailed: some runs failed, and trying again did not help.
        """
        storage = self._prepared.storage
        put_damaged_aside({storage.run(stretch.config.key): stretch.config for stretch in stretches}, say=self._say)
        missing = {}
        for stretch in stretches:
            if _is_done(storage, stretch):
                self._count(stretch, found=True)
            else:
                missing[f"{stretch.config.key}@{stretch.until_step}"] = stretch
        summary = self._train(missing) if missing else None
        results = {stretch.config.key: reached(storage, stretch) for stretch in stretches}
        if summary is not None:
            _raise_on_failures(summary, missing, results)
        return results

    def _train(self, by_id: Mapping[str, Stretch]) -> Summary:
        storage, prepared = self._prepared.storage, self._prepared
        segments = {id: _segment(id, stretch) for id, stretch in by_id.items()}
        names = {stretch.config.key: stretch.name for stretch in by_id.values()}
        folder = storage.sweep(prepared.spec.name)
        heeding = Heeding(folder, list(segments.values()), names, say=self._say)
        heeding.wait_while_paused()  # while nothing may run, there is no need for a Ray
        attempts = AttemptLog(storage, segments)
        at_work = AtWork(storage, segments)

        def on_event(event: Event) -> None:
            attempts.on_event(event)
            at_work.on_event(event)
            stretch = by_id[event.task.id]
            if event.state in (State.RETRYING, State.FAILED):
                self._say(f"{stretch.name}: {event.reason}")
            elif event.state in (State.DONE, State.SKIPPED):
                self._count(stretch, found=event.state is State.SKIPPED)
                loss = reached(storage, stretch).loss
                if event.state is State.DONE and loss is not None:
                    tokens = stretch.until_step * stretch.config.batch_tokens
                    self._say(f"{stretch.name}: loss {loss:.4f} after {tokens:,} tokens  ({self._progress})")

        supervisor = supervise(
            prepared,
            segments,
            self._open_executor(),
            self._place,
            heeding,
            at_work,
            estimated_seconds={id: segment.flops / ORDERING_FLOPS_PER_SECOND for id, segment in segments.items()},
            is_done=lambda id: _is_done(storage, by_id[id]),
            on_event=on_event,
        )
        with attempts:
            return supervisor.run()

    def _count(self, stretch: Stretch, *, found: bool) -> None:
        steps = stretch.until_step - self._counted.get(stretch.config.key, 0)
        self._progress.add(flops_of(stretch.config, steps), found=found)
        self._counted[stretch.config.key] = stretch.until_step


def reached(storage: Storage, stretch: Stretch) -> Reached:
    """What a stretch came to, from the run's folder."""
    folder = storage.run(stretch.config.key)
    done = read_done(folder)
    if done is not None and done.outcome == "diverged" and done.step <= stretch.until_step:
        return Reached(None, done.reason or "diverged")
    if done is not None and stretch.until_step == stretch.config.steps:
        return Reached(done.metrics.get(VAL_LOSS))
    losses = [
        p.metrics[VAL_LOSS] for p in read_journal(folder) if p.step == stretch.until_step and VAL_LOSS in p.metrics
    ]
    return Reached(losses[-1] if losses else None)


def _segment(id: str, stretch: Stretch) -> Segment:
    return Segment(
        id=id,
        run_key=stretch.config.key,
        config=stretch.config,
        start_step=0,  # or wherever its latest checkpoint is
        end_step=stretch.until_step,
        needs=(),
        flops=flops_of(stretch.config, stretch.until_step),
    )


def _raise_on_failures(summary: Summary, by_id: Mapping[str, Stretch], results: Mapping[str, Reached]) -> None:
    """A diverged run is an outcome; any other failure, and a cancelled run, ends the study here."""
    if summary.cancelled:
        names = ", ".join(by_id[id].name for id in summary.cancelled)
        raise TrialsFailed(f"cancelled: {names}. `isoloss resume` puts them back, and the same command goes on")
    failed = {
        by_id[id].name: failure.message
        for id, failure in summary.failed.items()
        if results[by_id[id].config.key].diverged is None
    }
    if failed:
        name, message = next(iter(failed.items()))
        raise TrialsFailed(f"{len(failed)} trials failed, {name} with: {message}. The same command tries them again")


def _is_done(storage: Storage, stretch: Stretch) -> bool:
    folder = storage.run(stretch.config.key)
    return read_done(folder) is not None or (
        stretch.until_step != stretch.config.steps and read_checkpoint_mark(folder, stretch.until_step) is not None
    )
