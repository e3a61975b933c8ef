"""Hooks in the product's own processes, set by environment: the product knows nothing of them.

`ISOLOSS_FAULTS` names a folder. Beside the ledger it holds the gates: a process that comes to an armed gate takes it and stays
there until the gate is opened or the process is killed. A file `full` in it makes every sync to the disk find no room.
"""

from __future__ import annotations

import errno
import functools
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults import ledger
from tests.faults.gates import hold

#: Of one training step and between two checkpoints: long enough to be hit in.
STEP_SECONDS, CHECKPOINT_SECONDS = "ISOLOSS_FAULTS_STEP_SECONDS", "ISOLOSS_FAULTS_CHECKPOINT_SECONDS"
#: The machine that processes take themselves to be on, and how soon a silent one counts as dead.
HOST, STALE_SECONDS = "ISOLOSS_FAULTS_HOST", "ISOLOSS_FAULTS_STALE_SECONDS"

FULL = "full"


def install() -> None:
    """Hook file operations now, and the product's modules when they are imported."""
    folder = Path(os.environ["ISOLOSS_FAULTS"])
    _hook_renames(folder)
    _hook_syncs(folder)
    sys.meta_path.insert(0, _Hooks(folder))


class _Hooks(MetaPathFinder):
    """Hooks a module right after it was imported."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._hooks: dict[str, Callable[[ModuleType, Path], None]] = {
            "llama.lease": _hook_lease,
            "llama.trainer": _hook_trainer,
            "llama.inference_cost": _hook_inference_cost,
            "sweeps.launching.worker": _hook_worker,
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        hook = self._hooks.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if hook is not None else None
        if hook is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_hook(module: ModuleType) -> None:
            execute(module)
            hook(module, self._folder)

        spec.loader.exec_module = execute_and_hook  # type: ignore[method-assign]
        return spec


def _hook_renames(folder: Path) -> None:
    """A checkpoint's folder, its mark and DONE each come into being by a rename."""
    rename, replace = Path.rename, Path.replace

    def renaming(self: Path, target: Path) -> Path:
        if self.name.startswith(".step-"):
            hold(folder, "writing a checkpoint")
        return rename(self, target)

    def replacing(self: Path, target: Path) -> Path:
        if target.name == "COMPLETE":
            hold(folder, "marking a checkpoint")
            replaced = replace(self, target)
            ledger.write(folder, "checkpoint", run=target.parents[2].name, step=int(target.parent.name[-8:]))
            return replaced
        if target.name == "DONE":
            hold(folder, "writing DONE")
            replaced = replace(self, target)
            ledger.write(folder, "done", run=target.parent.name)
            return replaced
        return replace(self, target)

    Path.rename, Path.replace = renaming, replacing  # type: ignore[method-assign]


def _hook_syncs(folder: Path) -> None:
    sync = os.fsync

    def syncing(descriptor: int) -> None:
        if (folder / FULL).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = syncing


def _hook_lease(lease: ModuleType, folder: Path) -> None:
    if HOST in os.environ:
        lease._host = lambda: os.environ[HOST]  # type: ignore[attr-defined]
    if STALE_SECONDS in os.environ:
        lease.STALE_SECONDS = float(os.environ[STALE_SECONDS])  # type: ignore[attr-defined]
        lease.BEAT_SECONDS = lease.STALE_SECONDS / 5  # type: ignore[attr-defined]


def _hook_trainer(trainer: ModuleType, folder: Path) -> None:
    acquire, validate, state = trainer.acquire, trainer.validate, trainer.TrainingState
    update = state.update
    step_seconds = float(os.environ[STEP_SECONDS])
    trainer.train_segment.__kwdefaults__["checkpoint_seconds"] = float(os.environ[CHECKPOINT_SECONDS])

    def acquiring(run_folder: Path, **options: Any) -> Any:
        ledger.write(folder, "ask", run=run_folder.name)
        lease = acquire(run_folder, **options)
        ledger.write(folder, "acquire", run=run_folder.name, step=lease.number)
        return lease

    def updating(self: Any, *arguments: Any, **options: Any) -> Any:
        time.sleep(step_seconds)
        result = update(self, *arguments, **options)
        ledger.write(folder, "step", run=self.config.key, step=self.step)
        if self.step == (self.config.fork_step or 0) + 1:
            hold(folder, "before its first checkpoint")
        hold(folder, "training")
        return result

    def validating(*arguments: Any, **options: Any) -> Any:
        hold(folder, "evaluating")
        return validate(*arguments, **options)

    trainer.acquire, trainer.validate, state.update = acquiring, validating, updating  # type: ignore[attr-defined]


def _hook_inference_cost(inference_cost: ModuleType, folder: Path) -> None:
    measure = inference_cost.measure_inference

    @functools.wraps(measure)
    def measuring(*arguments: Any, **options: Any) -> Any:
        hold(folder, "measuring inference")
        return measure(*arguments, **options)

    inference_cost.measure_inference = measuring  # type: ignore[attr-defined]


def _hook_worker(worker: ModuleType, folder: Path) -> None:
    train = worker.train

    @functools.wraps(train)
    def training(**arguments: Any) -> Any:
        hold(folder, "waiting")
        result = train(**arguments)
        hold(folder, "between segments")
        return result

    worker.train = training  # type: ignore[attr-defined]
