"""The analysis's commands work where only `requirements-analysis.txt` is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.tables import BESIROGLU, predict, spread_design

ROOT = Path(__file__).parents[2]
#: Where a package is imported by another name.
IMPORTED_AS = {"pyyaml": "yaml", "ray[default]": "ray"}

#: Runs the command with every other package of the project hidden, as it is where it was never installed.
COMMAND = """
import sys
hidden = set(sys.argv.pop(1).split(","))
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from sweeps.command import main
main()
"""


def names(lines: list[str]) -> dict[str, str]:
    """Requirement lines by package."""
    stripped = [line.partition("#")[0].strip() for line in lines]
    return {line.partition(">")[0].partition("=")[0].strip(): line for line in stripped if line}


@pytest.fixture(scope="module")
def light() -> dict[str, str]:
    return names((ROOT / "requirements-analysis.txt").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return names(project["dependencies"])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    n_params, n_tokens = spread_design(40, np.random.default_rng(0))
    noise = np.exp(0.005 * np.random.default_rng(1).standard_normal(40))
    rows = zip(n_params, n_tokens, predict(BESIROGLU, n_params, n_tokens) * noise, strict=True)
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    path.write_text("n_params,n_tokens,loss\n" + "".join(f"{n:.0f},{d:.0f},{loss:.6f}\n" for n, d, loss in rows))
    return path


def test_it_asks_for_what_the_whole_install_asks_for(light: dict[str, str], whole: dict[str, str]) -> None:
    assert light.items() <= whole.items()
    assert not light.keys() & {"torch", "ray[default]", "mlflow", "optuna"}


@pytest.mark.parametrize(
    "command",
    [
        "fit --bootstrap 100 --json",
        "recommend --compute 1e22 --demand 1e11 --bootstrap 100 --json",
        "report --out report",
    ],
)
def test_commands_need_no_more(
    command: str, table: Path, tmp_path: Path, light: dict[str, str], whole: dict[str, str]
) -> None:
    hidden = {IMPORTED_AS.get(name, name) for name in whole.keys() - light.keys()}
    name, *options = command.split()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, ",".join(sorted(hidden)), name, str(table), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
