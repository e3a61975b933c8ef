"""Bring MLflow up to what the run folders say. Idempotent: it can break off anywhere and be done again by anybody.

A journal is replayed up to the last complete checkpoint's `journal_bytes` (what a resume would rewrite is not shown), or to
its end once the run is done. MLflow drops identical (key, value, timestamp, step) rows, and a cursor on the MLflow run,
written with the points that it vouches for, says where to go on. The cursor carries the journal's hash: where the journal
was rewritten before it, the MLflow run goes to the trash and is made anew.

What it costs: for a run whose files stand still, a few stats a pass; for one with a new checkpoint, one call with what is
new. A server that can't follow makes passes longer, and then calls fuller.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from llama.errors import UserError
from llama.metric_names import TAG_OUTCOME
from llama.records import JOURNAL, CheckpointMark, RunStatus, now_ms, read_config
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.datasets import corpus_inputs
from sweeps.tracking.evidence import Evidence, final_rows, gather, inference_rows
from sweeps.tracking.journal_reader import Cursor, JournalReader, Row, Slab, short_hash
from sweeps.tracking.names import (
    TAG_COMPLETE,
    TAG_CURSOR,
    TAG_INFERENCE_DIGEST,
    checkpoint_tags,
    inference_tags,
    outcome_tags,
    run_params,
    run_tags,
)
from sweeps.tracking.signatures import Signature, Signatures
from sweeps.tracking.store import MlflowRun, Store, TrackingError
from sweeps.tracking.unconfirmed import Unconfirmed

#: A run whose heartbeat is older than this is nobody's, when no launcher is there to ask.
QUIET_SECONDS = 60.0
#: Failures in a row after which MLflow counts as away, and the other runs are not even tried.
FAILURES_IN_A_ROW = 3
#: Journal rows in one call, which leaves room for params and tags under MLflow's limit of 1,000 items.
ROWS_A_SLAB = 850
#: Calls that one run may take before the next has its turn.
SLABS_A_TURN = 20


class Replay:
    """Replays one sweep's run folders into an opened Store.

    Raises (here and in every method):
        TrackingError: MLflow is away.
    """

    def __init__(
        self,
        storage: Path,
        index: SweepIndex,
        store: Store,
        *,
        new_run_tags: dict[str, str] | None = None,
        readers: dict[str, JournalReader] | None = None,
    ):
        """`readers`, by run key, remember what was read of the journals: handed on, they save the next Replay the reading."""
        self._runs_folder = storage / "runs"
        self._index, self._store = index, store
        self._new_run_tags = new_run_tags or {}
        self._inputs = corpus_inputs(storage / index.corpus_folder)
        self.parent = store.open_parent(index)
        store.log_inputs(self.parent, self._inputs)
        self._signatures = Signatures(storage, index)
        self._mirrored = store.find_runs()
        self._retired = store.find_retired()
        self._readers = {} if readers is None else readers
        self._unconfirmed = Unconfirmed(storage, index.sweep)
        self._lost: set[str] = set()
        """Keys of runs of which MLflow did not confirm something: it may have it, or may yet."""
        self._branches = index.branches_by_trunk()
        self._seen: dict[str, Signature] = {}
        self.points = 0
        """Metric values sent so far."""
        self.troubles: dict[str, str] = {}
        """What keeps a run from being up to date, by run name."""

    def vouch(self) -> None:
        """Note on the parent run that MLflow has all that the last pass saw, which was one with `live` false and sent all.

        Only who lost no answer may: a request that timed out may still be carried out.
        """
        if not any(run.status == "RUNNING" for run in self._mirrored.values()):
            self._store.log(self.parent, tags={TAG_COMPLETE: self._signatures.digest(self._seen)})

    @property
    def behind(self) -> list[str]:
        """Names of the runs that have not been brought up to date."""
        return [run.name for run in self._index.runs if run.key not in self._seen or run.name in self.troubles]

    def advance(self, *, live: bool, give_up: threading.Event | None = None) -> bool:
        """One pass over all runs; False where one has more to send than its turn in a pass allows.

        `live`: a launcher is at work, so that an unfinished run is running. Set `give_up` to end the pass early.
        """
        is_all_sent = True
        failures = 0
        for run in self._index.runs:
            if give_up is not None and give_up.is_set():
                return True
            folder = self._runs_folder / run.key
            signature = self._signatures.of(run, live=live)
            if self._seen.get(run.key) == signature:
                continue
            try:
                if self._bring_up(run, folder, live=live, give_up=give_up):
                    self._seen[run.key] = signature
                else:
                    is_all_sent = False
                self.troubles.pop(run.name, None)
                failures = 0
            except UserError as error:  # a damaged file is one run's trouble
                self.troubles[run.name] = str(error)
            except TrackingError as error:
                self.troubles[run.name] = str(error)
                self._mirrored.pop(run.key, None)
                self._lost.add(run.key)
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    raise
        return is_all_sent

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
        runs = [self._mirrored.get(run.key) for run in self._index.runs if not run.censored]
        if all(run is not None and run.tags.get(TAG_OUTCOME) in ended for run in runs):
            status = "FINISHED"
        else:
            status = "RUNNING" if live else "KILLED"
        self._store.set_status(self.parent, status, now_ms())

    def _bring_up(self, run: SweepRun, folder: Path, *, live: bool, give_up: threading.Event | None) -> bool:
        """Send what MLflow lacks of one run, in an order that can break off anywhere; False where something is left."""
        evidence = gather(folder)
        if evidence is None:
            return True
        links = {"mlflow.parentRunId": self.parent.run_id}
        tags = run_tags(run, self._index, evidence.config) | links
        mirrored = self._mlflow_run(run, evidence, tags)
        reader, params = self._readers[run.key], run_params(evidence.config)
        for _ in range(SLABS_A_TURN):
            if give_up is not None and give_up.is_set():
                return False
            slab = reader.next_slab(evidence.shown_bytes, ROWS_A_SLAB)
            cursor = {TAG_CURSOR: str(slab.cursor)}
            if slab.is_last:
                break
            self._send(run, mirrored, slab, params=params, metrics=slab.rows, tags=cursor)
            reader.take(slab)
        else:
            return False
        outcome, reason = self._outcome(run, evidence)
        rows = list(slab.rows)
        if mirrored.tags.get(TAG_OUTCOME) != outcome:
            rows += final_rows(evidence)
        if evidence.inference is not None:
            digest = short_hash(evidence.inference.model_dump_json().encode())
            if mirrored.tags.get(TAG_INFERENCE_DIGEST) != digest:
                rows += inference_rows(evidence)
            tags |= {TAG_INFERENCE_DIGEST: digest, **inference_tags(evidence.inference)}
        if evidence.mark is not None:
            tags |= checkpoint_tags(folder, evidence.mark)
        if evidence.heartbeat is not None:
            tags["attempt"] = str(evidence.heartbeat.attempt)
        tags |= cursor | outcome_tags(outcome, reason, mirrored.tags)
        self._send(run, mirrored, slab, params=params, metrics=rows, tags=tags)
        reader.take(slab)
        self._store.log_inputs(mirrored, self._inputs)
        is_stopped = run.censored and evidence.done is None
        status = "KILLED" if is_stopped else _mlflow_status(outcome, evidence, live=live)
        self._store.set_status(mirrored, status, evidence.end_ms)
        return True

    def _send(
        self,
        run: SweepRun,
        mirrored: MlflowRun,
        slab: Slab,
        *,
        params: dict[str, str],
        metrics: list[Row],
        tags: dict[str, str],
    ) -> None:
        try:
            self._store.log(mirrored, params=params, metrics=metrics, tags=tags)
        except TrackingError:
            self._unconfirmed.note(run.key, slab.cursor)
            raise
        self.points += len(metrics)

    def _mlflow_run(self, run: SweepRun, evidence: Evidence, tags: dict[str, str]) -> MlflowRun:
        """The run's mirror, its reader standing where MLflow stands; made where there is none, or where it holds points that
        the journal no longer has, or may yet get them.
        """
        if run.key in self._lost:
            found = self._store.find_run(run.key)
            if found is not None:
                self._mirrored[run.key] = found
            self._lost.discard(run.key)
        if run.key not in self._mirrored and run.key in self._retired:
            self._store.restore(self._retired[run.key])
            self._mirrored[run.key] = self._retired.pop(run.key)
        reader = self._readers.setdefault(run.key, JournalReader(self._runs_folder / run.key / JOURNAL))
        mirrored = self._mirrored.get(run.key)
        if mirrored is not None:
            is_another = self._unconfirmed.is_of_another_journal(run.key)
            if not is_another and reader.go_to(Cursor.parse(mirrored.tags.get(TAG_CURSOR))):
                return mirrored
            self._store.delete(mirrored)
            self._unconfirmed.forget(run.key)
            del self._mirrored[run.key]
        reader.go_to(Cursor.parse(None))
        mirrored = self._store.create(run.name, tags={**tags, **self._new_run_tags}, start_ms=evidence.start_ms)
        self._mirrored[run.key] = mirrored
        return mirrored

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
        configs = [read_config(self._runs_folder / branch.key) for branch in self._branches.get(trunk.key, [])]
        forks = [config.fork_step or 0 for config in configs if config is not None]
        return mark is not None and 0 < len(forks) == len(configs) and max(forks) <= mark.step


def _mlflow_status(outcome: RunStatus, evidence: Evidence, *, live: bool) -> str:
    if outcome is RunStatus.FINISHED:
        return "FINISHED"
    if outcome in (RunStatus.DIVERGED, RunStatus.FAILED):
        return "FAILED"
    beat = evidence.heartbeat
    beats = beat is not None and time.time() - beat.unix_ms / 1000 < QUIET_SECONDS
    return "RUNNING" if live or beats else "KILLED"
