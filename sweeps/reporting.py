"""From runs to the study a person reads: the answer printed, report.html and pictures written, and put on MLflow's parent."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llama.config import digest
from llama.errors import UserError
from llama.records import DONE, INFERENCE
from sweeps.storage import Storage, SweepFolder, open_sweep
from sweeps.tracking import TrackingError, default_tracking_uri, log_parent_artifacts, masked, sync

if TYPE_CHECKING:
    from analysis.results import Answer

LINE_WIDTH = 110
REPORT = "report.html"
ANSWER = "answer.txt"
INPUTS = "inputs.sha256"
"""Digest of the runs that the report was made from: an unchanged sweep is not analysed again."""

TABLES = (".csv", ".parquet")


def report_runs(
    runs: str,
    storage: Storage,
    *,
    out: Path | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None],
) -> Path:
    """Report on RUNS, a sweep or a table; returns the path of report.html.

    Raises:
        UserError: RUNS can't be read, or has no run that can be used.
    """
    if is_table(runs):
        folder = out or Path("report")
        answer = _write(Path(runs), folder, {})
        say(answer)
        say(f"report: {folder / REPORT}")
        return folder / REPORT
    return report_sweep(open_sweep(runs, storage), out=out, tracking_uri=tracking_uri, say=say)


def is_table(runs: str) -> bool:
    """Whether RUNS is a file with a row a run, rather than a sweep."""
    return Path(runs).suffix.lower() in TABLES


def report_sweep(
    sweep: SweepFolder, *, out: Path | None = None, tracking_uri: str | None = None, say: Callable[[str], None]
) -> Path:
    """Report on a launched sweep, into its own folder unless `out` says where, and onto its parent run in MLflow."""
    folder = out or sweep.folder / "report"
    inputs = _inputs_digest(sweep)
    if _stored_inputs(folder) != inputs:
        say("analysing")
        provenance = {"sweep": sweep.index.sweep, "sweep id": sweep.index.sweep_id, "corpus": sweep.index.corpus_folder}
        _write(sweep.folder, folder, provenance)
        uri = default_tracking_uri(sweep.storage.root, tracking_uri)
        try:
            log_parent_artifacts(sweep.storage.root, sweep.index, uri, folder)
        except (TrackingError, UserError) as error:
            say(
                f"the report is not in MLflow at {masked(uri)} ({error}): `isoloss sync {sweep.index.sweep}` puts it there"
            )
        (folder / INPUTS).write_text(inputs + "\n", encoding="utf-8")
    say("")
    say((folder / ANSWER).read_text(encoding="utf-8"))
    say(f"report: {folder / REPORT}")
    return folder / REPORT


def sync_sweep(sweep: SweepFolder, *, tracking_uri: str | None, say: Callable[[str], None]) -> None:
    """Make MLflow equal to the sweep's run folders, its report included.

    Raises:
        UserError: the tracking URI can't work, or MLflow is not reached.
    """
    uri = default_tracking_uri(sweep.storage.root, tracking_uri)
    report = sweep.folder / "report"
    try:
        synced = sync(
            sweep.storage.root, sweep.index, uri, report_folder=report if (report / REPORT).exists() else None
        )
    except TrackingError as error:
        raise UserError(f"MLflow at {masked(uri)}: {error}; nothing is lost: sync again when it is back") from None
    say(f"{sweep.index.sweep} in MLflow at {synced.tracking_uri}: {synced.runs} runs, {synced.points:,} values sent")
    for name, trouble in synced.troubles.items():
        say(f"{name} is behind: {trouble}")


def _write(source: Path, folder: Path, provenance: dict[str, str]) -> str:
    """Analyse, write report, pictures and points; returns the answer as text."""
    from analysis.plots.gallery import save_pictures
    from analysis.report import write_report
    from analysis.runs import load_curves, load_runs
    from analysis.study import analyse

    study = analyse(load_runs(source), curves=load_curves(source))
    folder.mkdir(parents=True, exist_ok=True)
    save_pictures(study, folder)
    write_report(study, folder, provenance=provenance)
    text = _words(study.answer)
    (folder / ANSWER).write_text(text, encoding="utf-8")
    return text


def _words(answer: Answer) -> str:
    """The answer for a terminal: the headline, what it rests on, then what was measured and what was not."""
    lists = {"": answer.sentences, "Measured": answer.measured, "Extrapolated": answer.extrapolated}
    lines = [textwrap.fill(answer.headline, LINE_WIDTH)]
    for heading, points in lists.items():
        if points:
            lines += ["", *([f"{heading}:"] if heading else [])]
            lines += [textwrap.fill(point, LINE_WIDTH, initial_indent="- ", subsequent_indent="  ") for point in points]
    return "\n".join(lines) + "\n"


def _inputs_digest(sweep: SweepFolder) -> str:
    """What the report depends on: the index, and each run's end and serving cost."""
    evidence: dict[str, list[str]] = {}
    for run in sweep.index.runs:
        paths = [sweep.storage.run(run.key) / name for name in (DONE, INFERENCE)]
        evidence[run.key] = [path.read_text(encoding="utf-8") if path.exists() else "" for path in paths]
    return digest({"index": sweep.index.model_dump(mode="json"), "runs": evidence})


def _stored_inputs(folder: Path) -> str | None:
    try:
        return (folder / INPUTS).read_text(encoding="utf-8").strip() if (folder / REPORT).exists() else None
    except OSError:
        return None
