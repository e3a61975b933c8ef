"""One small real sweep: its YAML, the command that launches it, and what is left on the disk when it has ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.faults.injection import CHECKPOINT_SECONDS, STEP_SECONDS
from tests.integration.conftest import SWEEP, WORDS

ROOT = Path(__file__).parents[2]

#: Two trunks, each with three branches: some 600 steps in 12 segments.
SMALL: dict[str, Any] = SWEEP | {
    "ladder": {"widths": [8, 16], "context_length": 32},
    "budgets": {"tokens": [65_536, 131_072, 262_144]},
    "recipe": SWEEP["recipe"] | {"batch_tokens": 1024},
    "inference": {"max_batch": 1, "prompt_tokens": 4, "output_tokens": 2, "repetitions": 5},
}

#: Set on launchers, and on what they start, to find what a launch left.
LAUNCH_MARK = "ISOLOSS_FAULTS_LAUNCH"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep in a folder of its own, whose launches have hooks in them."""

    folder: Path
    name: str = "tiny"
    options: tuple[str, ...] = ()
    """Of the launch command."""
    step_seconds: float = 0.01
    checkpoint_seconds: float = 0.1
    variables: dict[str, str] = field(default_factory=dict)
    """Of the launcher's environment."""

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def faults(self) -> Path:
        """Where the gates and the ledger are."""
        return self.folder / "faults"

    @property
    def yaml_path(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def command(self) -> list[str]:
        launch = [
            sys.executable,
            "-m",
            "sweeps",
            "launch",
            str(self.yaml_path),
            "--storage",
            str(self.storage),
            "--json",
        ]
        return [*launch, *self.options]

    def hooks(self) -> dict[str, str]:
        """Environment that puts the hooks into a process and into all that it starts."""
        search = [str(ROOT / "tests/faults/injected"), str(ROOT)]
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ISOLOSS_", "RAY_"))
        }
        return clean | {
            "PYTHONPATH": os.pathsep.join(search),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "ISOLOSS_FAULTS": str(self.faults),
            STEP_SECONDS: str(self.step_seconds),
            CHECKPOINT_SECONDS: str(self.checkpoint_seconds),
        }

    def start(self) -> Launch:
        """Begin the launch, and leave it to its fate."""
        environment = self.hooks() | {LAUNCH_MARK: "1"} | self.variables
        number = len(list(self.folder.glob("launch-*.log")))
        paths = [self.folder / f"launch-{number:03d}.{ending}" for ending in ("log", "json")]
        with open(paths[0], "wb") as said, open(paths[1], "wb") as printed:
            process = subprocess.Popen(
                self.command, env=environment, stdout=printed, stderr=said, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        return Launch(process, *paths)

    def finish(self) -> dict[str, Any]:
        """Give the command, and let it end; its result."""
        return self.start().result()


@dataclass(frozen=True)
class Launch:
    """A launch under way."""

    process: subprocess.Popen[bytes]
    log: Path
    printed: Path

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """What it has said on standard error so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, seconds: float = 600.0) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the launch did not end within {seconds:g} seconds:\n{self.said}") from None

    def result(self) -> dict[str, Any]:
        """What it printed, once it has ended well."""
        code = self.end()
        assert code == 0, f"exit code {code}:\n{self.said}{self.printed.read_text()}"
        result: dict[str, Any] = json.loads(self.printed.read_text())
        return result

    def refusal(self) -> str:
        """What it said when it would not go on, or could not: one clear message, no traceback."""
        code = self.end()
        assert code in (1, 2), f"exit code {code}:\n{self.said}"
        said = self.said + self.printed.read_text()
        assert "Traceback" not in said, said
        return said


def make_sweep(folder: Path, values: dict[str, Any] = SMALL, **settings: Any) -> Sweep:
    """Write text and YAML; nothing is launched."""
    draw = random.Random(1)
    for domain in ("plain", "upper"):
        texts = folder / "text" / domain
        texts.mkdir(parents=True, exist_ok=True)
        for number in range(80):
            text = " ".join(draw.choices(WORDS, k=200))
            (texts / f"{number}.txt").write_text(text.upper() if domain == "upper" else text)
    sweep = Sweep(folder=folder, name=values["name"], **settings)
    sweep.faults.mkdir(exist_ok=True)
    sweep.yaml_path.write_text(yaml.safe_dump(values))
    return sweep


def processes_of(sweep: Sweep, *, launch_only: bool = False) -> list[psutil.Process]:
    """Everything that its launches started and that still lives; `launch_only` leaves out a standing cluster's own."""
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            is_ours = variables.get("ISOLOSS_FAULTS") == str(sweep.faults) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if is_ours and (LAUNCH_MARK in variables or not launch_only):
            found.append(process)
    return found
