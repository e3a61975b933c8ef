"""The command's verbs as functions."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sweeps
from llama.errors import UserError
from sweeps import launch, load_sweep, plan
from tests.sweeps.examples import SWEEP


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(f"the square of number {n} is {n * n % 97}\n" for n in range(20_000)))
    corpus = {
        "domains": {"text": {"files": ["text.txt"], "weight": 1, "max_document_bytes": 2000}},
        "tokenizer": {"vocab_size": 300},
    }
    written = tmp_path / "sweep.yaml"
    written.write_text(yaml.safe_dump(SWEEP | {"corpus": corpus, "evaluation": {"validation_tokens": 4096}}))
    return written


def test_a_plan_is_a_record(path: Path) -> None:
    said: list[str] = []
    found = plan(path, cluster="64xH100", mfu=0.5, storage=path.parent / "storage", say=said.append)
    assert (found.sweep, found.place) == (load_sweep(path).name, "64xH100")
    assert found.wall_seconds is not None
    assert found.foresight is not None
    assert found.foresight.target_flops == pytest.approx(10 * found.foresight.longest_run_flops)
    assert any("text" in line for line in said)


def test_bad_input_is_refused_as_by_the_command(path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'H100'"):
        plan(path, cluster="8xH10")
    with pytest.raises(UserError, match="nowhere"):
        launch("nowhere.yaml", storage=path.parent / "storage")


def test_only_these_names_are_there_and_importing_costs_nothing() -> None:
    assert all(callable(getattr(sweeps, name)) for name in sweeps.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        sweeps.plann  # noqa: B018
    code = "import sys, sweeps; print(sorted({'torch', 'ray', 'numpy', 'pydantic', 'typer'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
