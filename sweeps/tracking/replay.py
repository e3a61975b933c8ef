"""Bring MLflow up to what the run folders say. Idempotent: it can break off anywhere and be done again by anybody.

A journal is replayed up to the last complete checkpoint's `journal_bytes` (what a resume would rewrite is not shown), or to
its end once the run is done. MLflow drops identical (key, value, timestamp, step) rows, and a cursor on the MLflow run,
written after the points that it vouches for, says where to go on. The cursor carries the journal's hash: where the journal
was rewritten before it, the MLflow run goes to the trash and is made anew.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from llama.errors import UserError
from llama.metric_names import TAG_OUTCOME
from llama.records import CONFIG, DONE, FAILURE, INFERENCE, CheckpointMark, RunStatus, complete_steps, read_config
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.evidence import Evidence, final_rows, gather, inference_rows, journal_slabs, short_hash, stamp
from sweeps.tracking.names import (
    TAG_CURSOR,
    TAG_INFERENCE_DIGEST,
    checkpoint_tags,
    inference_tags,
    outcome_tags,
    run_params,
    run_tags,
)
from sweeps.tracking.store import METRICS_A_CALL, MlflowRun, Store, TrackingError

#: A run whose heartbeat is older than this is nobody's, when no launcher is there to ask.
QUIET_SECONDS = 60.0
#: Failures in a row after which MLflow counts as away, and the other runs are not even tried.
FAILURES_IN_A_ROW = 3


class Replay:
    """Replays one sweep's run folders into an opened Store.

    Raises (here and in every method):
        TrackingError: MLflow is away.
    """

    def __init__(self, storage: Path, index: SweepIndex, store: Store, *, new_run_tags: dict[str, str] | None = None):
        self._runs_folder = storage / "runs"
        self._index, self._store = index, store
        self._new_run_tags = new_run_tags or {}
        self.parent = store.open_parent(index)
        self._mirrored = store.find_runs()
        self._retired = store.find_retired()
        self._seen: dict[str, tuple[object, ...]] = {}
        self.points = 0
        """Metric values sent so far."""
        self.troubles: dict[str, str] = {}
        """What keeps a run from being up to date, by run name."""

    @property
    def behind(self) -> list[str]:
        """Names of the runs that have not been brought up to date."""
        return [run.name for run in self._index.runs if run.key not in self._seen or run.name in self.troubles]

    def advance(self, *, live: bool, give_up: threading.Event | None = None) -> None:
        """One pass over all runs. Those whose files have not changed since they were last up to date cost a few stats.

        `live`: a launcher is at work, so that an unfinished run is running. Set `give_up` to end the pass early.
        """
        failures = 0
        for run in self._index.runs:
            if give_up is not None and give_up.is_set():
                return
            folder = self._runs_folder / run.key
            signature = self._signature(run, folder, live=live)
            if self._seen.get(run.key) == signature:
                continue
            try:
                if self._bring_up(run, folder, live=live, give_up=give_up):
                    self._seen[run.key] = signature
                self.troubles.pop(run.name, None)
                failures = 0
            except UserError as error:  # a damaged file is one run's trouble
                self.troubles[run.name] = str(error)
            except TrackingError as error:
                self.troubles[run.name] = str(error)
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    raise

    def retire_strangers(self) -> int:
        """Move runs that the sweep no longer lists to MLflow's trash, so that a fit there sees the sweep's alone.

        Their folders stay, and a sweep that lists them again gets them back. Returns how many were moved.
        """
        strangers = self._mirrored.keys() - {run.key for run in self._index.runs}
        for key in sorted(strangers):
            self._retired[key] = self._mirrored.pop(key)
            self._store.retire(self._retired[key])
        return len(strangers)

    def mark_parent(self, *, live: bool) -> None:
        """The parent is FINISHED when every run has ended, else RUNNING while a launcher lives, else KILLED."""
        ended = (RunStatus.FINISHED, RunStatus.DIVERGED)
        runs = [self._mirrored.get(run.key) for run in self._index.runs]
        if all(run is not None and run.tags.get(TAG_OUTCOME) in ended for run in runs):
            status = "FINISHED"
        else:
            status = "RUNNING" if live else "KILLED"
        self._store.set_status(self.parent, status, int(time.time() * 1000))

    def _signature(self, run: SweepRun, folder: Path, *, live: bool) -> tuple[object, ...]:
        """Cheap evidence of change: a few stats, and for a run that is not done its latest checkpoint."""
        if stamp(folder / CONFIG) is None:
            return ()
        stamps = [stamp(folder / name) for name in (DONE, INFERENCE, FAILURE)]
        if stamps[0] is not None:
            return tuple(stamps)
        begun = sum(stamp(self._runs_folder / branch.key / CONFIG) is not None for branch in self._branches(run))
        return (*stamps, complete_steps(folder)[-1:], begun, live)

    def _bring_up(self, run: SweepRun, folder: Path, *, live: bool, give_up: threading.Event | None) -> bool:
        """Send what MLflow lacks of one run, in an order that can break off anywhere; False where `give_up` broke it off."""
        evidence = gather(folder)
        if evidence is None:
            return True
        tags = run_tags(run, self._index, evidence.config)
        mirrored = self._mlflow_run(run, evidence, tags)
        self._store.log(mirrored, params=run_params(evidence.config))
        for rows, cursor in journal_slabs(evidence, _cursor(mirrored)[0], METRICS_A_CALL):
            if give_up is not None and give_up.is_set():
                return False
            self._store.log(mirrored, metrics=rows)
            self._store.log(mirrored, tags={TAG_CURSOR: f"{cursor} {short_hash(evidence.journal[:cursor])}"})
            self.points += len(rows)
        self._log_inference(mirrored, evidence)
        outcome, reason = self._outcome(run, evidence)
        if mirrored.tags.get(TAG_OUTCOME) != outcome:
            rows = final_rows(evidence)
            self._store.log(mirrored, metrics=rows)
            self.points += len(rows)
        if evidence.mark is not None:
            tags |= checkpoint_tags(folder, evidence.mark)
        if evidence.heartbeat is not None:
            tags["attempt"] = str(evidence.heartbeat.attempt)
        self._store.log(mirrored, tags=tags | outcome_tags(outcome, reason, mirrored.tags))
        self._store.set_status(mirrored, _mlflow_status(outcome, evidence, live=live), evidence.end_ms)
        return True

    def _mlflow_run(self, run: SweepRun, evidence: Evidence, tags: dict[str, str]) -> MlflowRun:
        """The run's mirror, made where there is none, or where it holds points that the journal no longer has."""
        if run.key not in self._mirrored and run.key in self._retired:
            self._store.restore(self._retired[run.key])
            self._mirrored[run.key] = self._retired.pop(run.key)
        mirrored = self._mirrored.get(run.key)
        if mirrored is not None:
            length, digest = _cursor(mirrored)
            if length == 0 or short_hash(evidence.journal[:length]) == digest:
                return mirrored
            self._store.delete(mirrored)
        links = {"mlflow.parentRunId": self.parent.run_id, **self._new_run_tags}
        self._mirrored[run.key] = self._store.create(run.name, tags={**tags, **links}, start_ms=evidence.start_ms)
        return self._mirrored[run.key]

    def _log_inference(self, mirrored: MlflowRun, evidence: Evidence) -> None:
        """Once for each inference.json: its digest on the MLflow run says which one is there."""
        if evidence.inference is None:
            return
        digest = short_hash(evidence.inference.model_dump_json().encode())
        if mirrored.tags.get(TAG_INFERENCE_DIGEST) == digest:
            return
        rows = inference_rows(evidence)
        self._store.log(mirrored, metrics=rows)
        self._store.log(mirrored, tags={TAG_INFERENCE_DIGEST: digest, **inference_tags(evidence.inference)})
        self.points += len(rows)

    def _outcome(self, run: SweepRun, evidence: Evidence) -> tuple[RunStatus, str]:
        """A run's status with its reason, as `llama.records.read_status` has it, but that a whole trunk is finished."""
        if evidence.done is not None:
            finished = evidence.done.outcome == "finished"
            return RunStatus.FINISHED if finished else RunStatus.DIVERGED, evidence.done.reason or ""
        if evidence.failure is not None:
            return RunStatus.FAILED, f"{evidence.failure.kind}: {evidence.failure.message}"
        whole = run.is_trunk and self._is_whole_trunk(run, evidence.mark)
        return RunStatus.FINISHED if whole else RunStatus.STARTED, ""

    def _is_whole_trunk(self, trunk: SweepRun, mark: CheckpointMark | None) -> bool:
        """A trunk has no DONE: it is whole when every branch has begun and none forks beyond its last checkpoint."""
        configs = [read_config(self._runs_folder / branch.key) for branch in self._branches(trunk)]
        forks = [config.fork_step or 0 for config in configs if config is not None]
        return mark is not None and 0 < len(forks) == len(configs) and max(forks) <= mark.step

    def _branches(self, trunk: SweepRun) -> list[SweepRun]:
        return [run for run in self._index.runs if run.trunk == trunk.key]


def _cursor(mirrored: MlflowRun) -> tuple[int, str]:
    """How many bytes of the journal MLflow has, and their hash."""
    length, _, digest = mirrored.tags.get(TAG_CURSOR, "0 ").partition(" ")
    return int(length), digest


def _mlflow_status(outcome: RunStatus, evidence: Evidence, *, live: bool) -> str:
    if outcome is RunStatus.FINISHED:
        return "FINISHED"
    if outcome in (RunStatus.DIVERGED, RunStatus.FAILED):
        return "FAILED"
    beat = evidence.heartbeat
    beats = beat is not None and time.time() - beat.unix_ms / 1000 < QUIET_SECONDS
    return "RUNNING" if live or beats else "KILLED"
