"""The `isoloss` command as a person runs it, in this process, and a table to run it on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeps.command import main
from tests.analysis.tables import BESIROGLU, predict


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


Isoloss = Callable[..., Ran]


@pytest.fixture
def isoloss(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Isoloss:
    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["isoloss", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


def made_runs(*, seed: int = 0, noise: float = 0.005, compute: float = 1.0) -> pd.DataFrame:
    """A ladder of eight sizes at six ratios, by Besiroglu's law; `compute` is what each run's FLOPs are worth beside it.

    Larger N and D by the square root each is the same as more compute at equal ratios.
    """
    rng = np.random.default_rng(seed)
    n_params, ratio = (x.ravel() for x in np.meshgrid(np.geomspace(3e7, 3e9, 8).round(), [5.0, 10, 20, 40, 80, 160]))
    n_tokens = n_params * ratio
    worth = np.sqrt(compute)
    loss = predict(BESIROGLU, n_params * worth, n_tokens * worth) * np.exp(noise * rng.standard_normal(len(n_params)))
    return pd.DataFrame(
        {
            "run_id": [f"run-{i}" for i in range(len(loss))],
            "n_params": n_params,
            "n_tokens": n_tokens,
            "tokens_per_param": ratio,
            "loss": loss,
            "flops": 6 * n_params * n_tokens,
        }
    )


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    made_runs().to_csv(path, index=False)
    return path
