"""From runs to the study a person reads: the answer printed, report.html and pictures written, and put on MLflow's parent."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.runs.mlflow_uri import masked
from llama.config import digest
from llama.errors import UserError
from llama.records import DONE, INFERENCE, Record, now_ms, read_record, write_record
from sweeps.runs_query import RunsQuery, is_table
from sweeps.storage import Storage, SweepFolder, open_sweep
from sweeps.tracking import StudyReport, TrackingError, default_tracking_uri, log_report, sync
from sweeps.tracking.code import code_tags

if TYPE_CHECKING:
    from analysis.results import Study

LINE_WIDTH = 110
REPORT = "report.html"
ANSWER = "answer.txt"
STUDY = "study.json"
"""The study's document (`analysis.study_json`)."""
NUMBERS = "numbers.json"
"""A `Numbers`, written last: it vouches for the files beside it."""


class Numbers(Record):
    """What MLflow's parent run shows of a study, and what the study was made from."""

    digest: str
    """Of the runs and of the code: a sweep is analysed again only when this differs."""
    unix_ms: int
    metrics: dict[str, float]
    headline: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a report answers: which runs, and `analysis.analyse`'s options where they are not its defaults."""

    query: RunsQuery = field(default_factory=RunsQuery)
    options: Mapping[str, Any] = field(default_factory=dict)


def report_runs(
    runs: str,
    storage: Storage,
    *,
    asked: Asked | None = None,
    out: Path | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None],
) -> Path:
    """Report on RUNS, a sweep or a table; returns the path of report.html.

    Raises:
        UserError: RUNS can't be read or has no run that can be used, or `out` can't be written.
    """
    asked = asked or Asked()
    if is_table(runs):
        folder = out or Path("report")
        _require_writable(folder)
        _write(runs, folder, {}, asked)
        say((folder / ANSWER).read_text(encoding="utf-8"))
        say(f"report: {folder / REPORT}")
        return folder / REPORT
    return report_sweep(open_sweep(runs, storage), asked=asked, out=out, tracking_uri=tracking_uri, say=say)


def report_sweep(
    sweep: SweepFolder,
    *,
    asked: Asked | None = None,
    out: Path | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None],
) -> Path:
    """Report on a launched sweep, into its own folder unless `out` says where, and onto its parent run in MLflow."""
    asked = asked or Asked()
    folder = out or sweep.folder / "report"
    _require_writable(folder)
    digest_now = _digest(sweep, asked)
    numbers = _numbers(folder)
    if numbers is None or numbers.digest != digest_now:
        say("analysing")
        (folder / NUMBERS).unlink(missing_ok=True)
        provenance = {"sweep": sweep.index.sweep, "sweep id": sweep.index.sweep_id, "corpus": sweep.index.corpus_folder}
        study = _write(sweep.folder, folder, provenance, asked)
        numbers = Numbers(
            digest=digest_now,
            unix_ms=now_ms(),
            metrics=study_metrics(study),
            headline=study.answer.headline,
        )
        write_record(folder / NUMBERS, numbers)
    uri = default_tracking_uri(sweep.storage.root, tracking_uri)
    try:
        if log_report(sweep.storage.root, sweep.index, uri, _study_report(folder, numbers)):
            say(f"the report is in MLflow at {masked(uri)}, on the parent run of {sweep.index.sweep}")
    except (TrackingError, UserError) as error:
        say(f"the report is not in MLflow at {masked(uri)} ({error}): the next `isoloss report` tries again")
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
    folder = sweep.folder / "report"
    numbers = _numbers(folder)
    report = _study_report(folder, numbers) if numbers is not None else None
    try:
        synced = sync(sweep.storage.root, sweep.index, uri, report=report)
    except TrackingError as error:
        raise UserError(f"MLflow at {masked(uri)}: {error}; nothing is lost: sync again when it is back") from None
    say(f"{sweep.index.sweep} in MLflow at {synced.tracking_uri}: {synced.runs} runs, {synced.points:,} values sent")
    if synced.retired:
        say(f"moved to MLflow's trash, since the sweep no longer lists them: {synced.retired} (their folders stay)")
    for name, trouble in synced.troubles.items():
        say(f"{name} is behind: {trouble}")


def study_metrics(study: Study) -> dict[str, float]:
    """The study's numbers for MLflow: the law, its error on held-out runs, and the best model at the largest budget."""
    values: dict[str, float] = {}
    fit = study.fit
    if fit is not None:
        values = {f"fit/{name}": value for name, value in fit.params.items()}
        values |= {
            "fit/n_runs": float(fit.n_runs),
            "fit/n_opt_exponent": fit.exponents.n_opt,
            "fit/d_opt_exponent": fit.exponents.d_opt,
            "fit/residual_sd": fit.residual_sd,
        }
        if fit.held_out is not None:
            values["held_out/mean_abs_rel_error"] = fit.held_out.mean_abs_rel_error
            values["held_out/max_abs_rel_error"] = fit.held_out.max_abs_rel_error
    if study.budgets:
        largest = max(study.budgets, key=lambda budget: budget.flops)
        values |= {
            "optimum/flops": largest.flops,
            "optimum/n_params": largest.optimum.n_params,
            "optimum/n_tokens": largest.optimum.n_tokens,
            "optimum/loss": largest.optimum.loss,
        }
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _write(source: str | Path, folder: Path, provenance: dict[str, str], asked: Asked) -> Study:
    """Analyse, write report, pictures, points and the answer as text."""
    from analysis import report
    from analysis.study_json import study_json

    table = asked.query.load(source)
    study = report(
        table,
        folder,
        curves=asked.query.load_curves(source, table),
        provenance=provenance,
        **asked.options,
    )
    _remove_other_pictures(study, folder)
    (folder / STUDY).write_text(json.dumps(study_json(study), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / ANSWER).write_text(_words(study), encoding="utf-8")
    return study


def _remove_other_pictures(study: Study, folder: Path) -> None:
    """What an earlier report left of pictures that this study can't give: they would pass for its own."""
    from analysis.plots.gallery import make_pictures
    from analysis.plots.picture import Absent

    for made in make_pictures(study):
        if isinstance(made, Absent):
            for ending in ("png", "svg", "csv"):
                (folder / f"{made.stem}.{ending}").unlink(missing_ok=True)


def _require_writable(folder: Path) -> None:
    """Make the report's folder, before minutes are spent on what goes into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the report's folder {folder} can't be written ({error.strerror}): name another with --out"
        ) from None


def _words(study: Study) -> str:
    """The answer for a terminal: the headline, what it rests on, what was measured and what was not, and every warning."""
    answer, law_warnings = study.answer, study.fit.warnings if study.fit is not None else ()
    lists = {
        "": answer.sentences,
        "Measured": answer.measured,
        "Interpolated": answer.interpolated,
        "Extrapolated": answer.extrapolated,
        "Warnings": tuple(dict.fromkeys((*study.table.warnings, *law_warnings))),
    }
    lines = [textwrap.fill(answer.headline, LINE_WIDTH)]
    for heading, points in lists.items():
        if points:
            lines += ["", *([f"{heading}:"] if heading else [])]
            lines += [textwrap.fill(point, LINE_WIDTH, initial_indent="- ", subsequent_indent="  ") for point in points]
    return "\n".join(lines) + "\n"


def _digest(sweep: SweepFolder, asked: Asked) -> str:
    """What the report depends on: the index, each run's end and serving cost, what was asked, and the code that analyses."""
    evidence: dict[str, list[str]] = {}
    for run in sweep.index.runs:
        paths = [sweep.storage.run(run.key) / name for name in (DONE, INFERENCE)]
        evidence[run.key] = [path.read_text(encoding="utf-8") if path.exists() else "" for path in paths]
    return digest(
        {
            "index": sweep.index.model_dump(mode="json"),
            "runs": evidence,
            "asked": {
                "query": asdict(asked.query),
                "options": {name: repr(value) for name, value in asked.options.items()},
            },
            "code": code_tags(),
        }
    )


def _numbers(folder: Path) -> Numbers | None:
    """Those of the report that is in `folder`; None where there is no whole one."""
    try:
        numbers = read_record(folder / NUMBERS, Numbers)
    except UserError:  # of another version, or damaged: the runs are still there to be analysed
        return None
    return numbers if all((folder / name).exists() for name in (REPORT, ANSWER, STUDY)) else None


def _study_report(folder: Path, numbers: Numbers) -> StudyReport:
    return StudyReport(
        folder=folder,
        digest=numbers.digest,
        unix_ms=numbers.unix_ms,
        metrics=numbers.metrics,
        headline=numbers.headline,
    )
