from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llama.records import read_checkpoint_mark, read_done, read_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex

WORDS = ["loss", "tokens", "model", "curve", "small", "large", "serve", "train", "long", "river", "stone", "light"]

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "corpus": {
        "domains": {
            "plain": {"files": ["text/plain"], "weight": 3},
            "upper": {"files": ["text/upper"], "weight": 1},
        },
        "tokenizer": {"vocab_size": 320, "sample_bytes": 60_000},
        "held_out_fraction": 0.2,
    },
    "ladder": {"widths": [16, 32], "context_length": 32},
    "budgets": {"tokens": [65_536, 131_072, 262_144]},
    "recipe": {"name": "width_and_horizon", "warmup_tokens": 4096, "reference_budget": 131_072},
    "evaluation": {"validation_tokens": 2048},
    "inference": False,
}


@dataclass(frozen=True)
class Launcher:
    """Runs `isoloss` as a person would, on one small sweep and one storage folder."""

    yaml_path: Path
    storage: Path

    def command(self, *arguments: str, storage: Path | None = None) -> list[str]:
        return [sys.executable, "-m", "sweeps", *arguments, "--storage", str(storage or self.storage)]

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ISOLOSS_"))}
        return clean | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.storage.parent / "cache")}

    def run(self, *arguments: str, storage: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, storage=storage)
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=240)

    def launch(self, *options: str, storage: Path | None = None) -> dict[str, Any]:
        done = self.run("launch", str(self.yaml_path), "--json", *options, storage=storage)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def start(self, *options: str, storage: Path | None = None) -> subprocess.Popen[str]:
        command = self.command("launch", str(self.yaml_path), *options, storage=storage)
        return subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def with_changes(self, **changes: Any) -> Launcher:
        path = self.yaml_path.with_name(f"{'-'.join(changes)}.yaml")
        path.write_text(yaml.safe_dump(SWEEP | changes))
        return Launcher(path, self.storage)


def read_index(storage: Path, sweep: str = "tiny") -> SweepIndex:
    index = read_record(storage / "sweeps" / sweep / SWEEP_INDEX, SweepIndex)
    assert index is not None
    return index


def results(storage: Path, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Final metrics and the digest of the final weights, by run name."""
    found = {}
    for run in read_index(storage).runs:
        done = read_done(storage / "runs" / run.key)
        if done is not None and (keys is None or run.key in keys):
            mark = read_checkpoint_mark(storage / "runs" / run.key, done.step)
            assert mark is not None
            found[run.name] = (done.metrics, mark.sha256["model.safetensors"])
    return found


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    draw = random.Random(1)
    for domain in ("plain", "upper"):
        folder = tmp_path / "text" / domain
        folder.mkdir(parents=True)
        for number in range(80):
            text = " ".join(draw.choices(WORDS, k=200))
            (folder / f"{number}.txt").write_text(text.upper() if domain == "upper" else text)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return Launcher(path, tmp_path / "storage")
