"""Where everything lies: one storage root, shared by all machines that work on a sweep.

<storage>/corpora/<digest>/     token shards
<storage>/runs/<key>/           run folders (llama.records), shared by all sweeps
<storage>/sweeps/<name>/        sweep.yaml, runs.json (the index), plans/, lease/, control/, tuning/, report/, mirror*.json
<storage>/exports/<key>/        runs as Hugging Face models, unless --out says otherwise
<storage>/mlflow.db             the mirror, unless a tracking URI says otherwise
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from llama.config import RunConfig
from llama.errors import UserError
from llama.records import read_config, read_record, write_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex

SWEEP_YAML = "sweep.yaml"
DEFAULT_ROOT = "isoloss-data"
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Storage:
    """A storage root. Nothing is created before something is written."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    def run(self, key: str) -> Path:
        return self.runs / key

    def sweep(self, name: str) -> Path:
        return self.sweeps / name

    def require_writable(self) -> None:
        """Raise UserError where the root can't be made or written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"storage folder {self.root} can't be written ({error.strerror}): name another with --storage, "
                "or set ISOLOSS_STORAGE"
            ) from None


def open_storage(folder: str | Path | None) -> Storage:
    """The storage that a person named, else ISOLOSS_STORAGE, else ./isoloss-data.

    Raises:
        UserError: a file stands in its place.
    """
    root = Path(folder or os.environ.get("ISOLOSS_STORAGE") or DEFAULT_ROOT).expanduser().resolve()
    standing = next(path for path in (root, *root.parents) if path.exists())
    if not standing.is_dir():
        raise UserError(f"no storage can be at {root}: {standing} is a file; name a folder with --storage")
    return Storage(root)


@dataclass(frozen=True, kw_only=True)
class SweepFolder:
    """A sweep that was launched once: its folder and index."""

    storage: Storage
    folder: Path
    index: SweepIndex


def register_sweep(storage: Storage, index: SweepIndex, yaml_path: Path) -> Path:
    """Write the sweep's index and a copy of its YAML; returns the sweep's folder."""
    folder = storage.sweep(index.sweep)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / SWEEP_YAML
    if yaml_path.resolve() != copy.resolve():
        shutil.copyfile(yaml_path, copy)
    write_record(folder / SWEEP_INDEX, index)
    return folder


def open_sweep(argument: str, storage: Storage) -> SweepFolder:
    """The launched sweep that SWEEP on the command line means: its folder, its YAML, or its name.

    Raises:
        UserError: there is no such sweep; the message lists those that there are.
    """
    path, name = Path(argument), argument
    if (path / SWEEP_INDEX).is_file():
        folder = path.resolve()
        storage = Storage(folder.parent.parent)
    elif path.suffix in YAML_SUFFIXES:
        from sweeps.designs.spec import load_sweep

        name = load_sweep(path).name
        folder = storage.sweep(name)
    else:
        folder = storage.sweep(argument)
    index = read_record(folder / SWEEP_INDEX, SweepIndex)
    if index is None:
        known = _sweeps_in(storage)
        there = f"sweeps there: {', '.join(known)}" if known else "no sweep was launched there yet"
        raise UserError(f"no launched sweep {name!r} in {storage.root} ({there}): launch it first, or see --storage")
    return SweepFolder(storage=storage, folder=folder, index=index)


def _sweeps_in(storage: Storage) -> list[str]:
    return sorted(found.parent.name for found in storage.sweeps.glob(f"*/{SWEEP_INDEX}"))


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run that has begun: its folder, what decides its numbers, and what it is called."""

    storage: Storage
    folder: Path
    config: RunConfig
    name: str
    """Its name in a sweep where it was found by that, else its key."""


def open_run(argument: str, storage: Storage) -> RunFolder:
    """The run that RUN on the command line means: its folder, its key, or its name in a sweep, as `w32-C3.2e11-s0` or, where
    sweeps share the name, `mine/w32-C3.2e11-s0`.

    Raises:
        UserError: there is no such run, it has not begun, or several are called so.
    """
    path = Path(argument).expanduser()
    if path.is_dir() and (config := read_config(path)) is not None:
        folder = path.resolve()
        return RunFolder(storage=Storage(folder.parent.parent), folder=folder, config=config, name=config.key)
    sweep, _, name = argument.rpartition("/")
    indexes = [
        index for known in _sweeps_in(storage) if (index := read_record(storage.sweep(known) / SWEEP_INDEX, SweepIndex))
    ]
    keys = {
        index.sweep: run.key
        for index in indexes
        for run in index.runs
        if run.name == name and sweep in ("", index.sweep)
    }
    if len(set(keys.values())) > 1:
        raise UserError(
            f"sweeps {', '.join(keys)} each have a run {argument}: say which, as {next(iter(keys))}/{argument}"
        )
    folder = storage.run(next(iter(keys.values()), argument))
    config = read_config(folder) if folder.parent == storage.runs else None
    if config is None and keys:
        raise UserError(f"run {argument} has not begun: launch {next(iter(keys))} first")
    if config is None:
        from sweeps.yaml_lines import nearest

        hint = nearest(name, [run.name for index in indexes for run in index.runs])
        raise UserError(
            f"no run {argument!r} in {storage.root}{hint}: a run's folder, its key, or its name as isoloss status "
            "shows it is right; see --storage"
        )
    return RunFolder(storage=storage, folder=folder, config=config, name=name)


@dataclass(frozen=True, kw_only=True)
class SweepSource:
    """Where a sweep's YAML is, what its relative paths start from, and the storage that it goes with."""

    yaml_path: Path
    spec_folder: Path
    storage: Storage


def find_source(argument: str, storage: Storage) -> SweepSource:
    """The YAML that SWEEP means: a file of one's own, or the copy of a launched sweep, which brings its own storage.

    Raises:
        UserError: there is no such sweep.
    """
    path = Path(argument)
    if path.suffix in YAML_SUFFIXES and not (path.parent / SWEEP_INDEX).is_file():
        return SweepSource(yaml_path=path, spec_folder=path.resolve().parent, storage=storage)
    sweep = open_sweep(str(path.parent) if path.suffix in YAML_SUFFIXES else argument, storage)
    return SweepSource(
        yaml_path=sweep.folder / SWEEP_YAML, spec_folder=Path(sweep.index.spec_folder), storage=sweep.storage
    )
