"""When a sweep is analysed and when its report goes to MLflow. The analysis itself is stood in for but in one test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from llama.errors import UserError
from llama.records import DONE, write_record
from llama.sweep_index import SWEEP_INDEX
from sweeps import reporting
from sweeps.reporting import ANSWER, REPORT, STUDY, report_runs, report_sweep, study_metrics, sync_sweep
from sweeps.storage import Storage, SweepFolder, open_sweep
from sweeps.tracking import TrackingError
from sweeps.tracking.uri import sqlite_uri
from tests.sweeps.tracking.synthetic import plan_sweep, train_sweep

INDEX, CONFIGS = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sweeps.reporting.code_tags", lambda: {"code.commit": "one"})
    train_sweep(tmp_path, INDEX, CONFIGS)
    folder = tmp_path / "sweeps" / INDEX.sweep
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / SWEEP_INDEX, INDEX)
    return open_sweep(INDEX.sweep, Storage(tmp_path))


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sources that were analysed, in order; each study's headline says how many there were."""
    sources: list[Path] = []

    def write(source: Path, folder: Path, provenance: dict[str, str], asked: Any) -> Any:
        sources.append(source)
        (folder / REPORT).write_text("<p>")
        (folder / ANSWER).write_text("the answer\n")
        (folder / STUDY).write_text("{}\n")
        headline = f"study {len(sources)}"
        return SimpleNamespace(fit=None, budgets=(), answer=SimpleNamespace(headline=headline))

    monkeypatch.setattr(reporting, "_write", write)
    return sources


def answer_in(uri: str) -> str | None:
    """The headline on the parent run, None where there is no report."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(INDEX.sweep)
    assert experiment is not None
    [parent] = client.search_runs([experiment.experiment_id], "tags.`run.kind` = 'sweep'")
    assert bool(client.list_artifacts(parent.info.run_id)) == ("answer" in parent.data.tags)
    answer: str | None = parent.data.tags.get("answer")
    return answer


def test_an_unchanged_sweep_is_analysed_once_and_sent_to_every_store_that_is_named(
    sweep: SweepFolder, analysed: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    uris = [sqlite_uri(tmp_path / name) for name in ("one.db", "two.db")]
    for uri in (*uris, *uris):
        report_sweep(sweep, tracking_uri=uri, say=said.append)
    assert len(analysed) == 1
    assert [answer_in(uri) for uri in uris] == ["study 1", "study 1"]
    assert sum("the report is in MLflow" in line for line in said) == 2
    assert said.count("the answer\n") == 4


@pytest.mark.parametrize("what", ["run", "code", "half-written"])
def test_a_new_run_newer_code_or_a_half_written_report_is_analysed_again(
    sweep: SweepFolder, analysed: list[Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    uri = sqlite_uri(sweep.storage.root / "mlflow.db")
    report_sweep(sweep, say=lambda line: None)
    if what == "run":
        [*_, done] = sorted(sweep.storage.runs.glob(f"*/{DONE}"))
        done.unlink()
    elif what == "code":
        monkeypatch.setattr("sweeps.reporting.code_tags", lambda: {"code.commit": "two"})
    else:
        (sweep.folder / "report" / ANSWER).unlink()
    report_sweep(sweep, say=lambda line: None)
    assert len(analysed) == 2
    assert answer_in(uri) == ("study 2" if what != "half-written" else "study 1")  # the same digest: MLflow has it


def test_a_failed_upload_is_told_and_tried_again(
    sweep: SweepFolder, analysed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise TrackingError("connection refused")

    said: list[str] = []
    with monkeypatch.context() as once:
        once.setattr(reporting, "log_report", away)
        report_sweep(sweep, say=said.append)
    assert any("connection refused" in line and "tries again" in line for line in said)
    report_sweep(sweep, say=said.append)
    assert len(analysed) == 1
    assert answer_in(sqlite_uri(sweep.storage.root / "mlflow.db")) == "study 1"


def test_sync_takes_the_report_along_and_says_which_runs_left(
    sweep: SweepFolder, analysed: list[Path], tmp_path: Path
) -> None:
    uri = sqlite_uri(tmp_path / "other.db")
    said: list[str] = []
    sync_sweep(sweep, tracking_uri=uri, say=said.append)
    assert answer_in(uri) is None
    report_sweep(sweep, say=said.append)
    write_record(sweep.folder / SWEEP_INDEX, INDEX.model_copy(update={"runs": INDEX.runs[:-1]}))
    sync_sweep(open_sweep(INDEX.sweep, sweep.storage), tracking_uri=uri, say=said.append)
    assert answer_in(uri) == "study 1"
    assert "no longer lists them: 1" in said[-1]


@pytest.mark.parametrize("out", ["/proc/nope", "file/below"])
def test_a_folder_that_can_not_be_written_is_named_before_anything_is_analysed(
    sweep: SweepFolder, analysed: list[Path], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").touch()
    for runs in (INDEX.sweep, "runs.csv"):
        with pytest.raises(UserError, match=rf"{out} can't be written .*--out"):
            report_runs(runs, sweep.storage, out=tmp_path / out, say=pytest.fail)
    assert analysed == []


def test_the_studys_numbers_are_the_law_its_held_out_error_and_the_optimum(tmp_path: Path) -> None:
    from analysis import load_runs
    from analysis.study import analyse

    rows = ["n_params,n_tokens,loss,held_out"]
    for n in (1e6, 2e6, 4e6, 8e6):
        for d in (2e7, 4e7, 8e7, 1.6e8, 3.2e8):
            loss = 1.7 + 400 / n**0.34 + 410 / d**0.28
            rows.append(f"{n},{d},{loss},{str((n, d) == (8e6, 3.2e8)).lower()}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    metrics = study_metrics(analyse(load_runs(tmp_path / "runs.csv"), bootstrap=0))
    assert metrics["fit/alpha"] == pytest.approx(0.34, rel=1e-3)
    assert metrics["fit/beta"] == pytest.approx(0.28, rel=1e-3)
    assert metrics["fit/n_opt_exponent"] == pytest.approx(0.28 / 0.62, rel=1e-3)
    assert metrics["fit/n_runs"] == 19
    assert metrics["held_out/mean_abs_rel_error"] < 1e-4
    assert 6 * metrics["optimum/n_params"] * metrics["optimum/n_tokens"] == pytest.approx(metrics["optimum/flops"])
    assert metrics["optimum/flops"] == pytest.approx(6 * 8e6 * 3.2e8)
