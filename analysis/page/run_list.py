"""The table of runs: short ones stand open, long ones fold, and what the page does not show is in its CSV."""

from __future__ import annotations

import math

from analysis.page.cells import cell
from analysis.page.markup import Column, Html, element, join, link, table
from analysis.results import Study

#: Longer tables are folded.
OPEN_ROWS = 60
#: Rows that the page shows at most: browsers take seconds for more.
MOST_ROWS = 2000
_HEADINGS = (
    "N",
    "D",
    "D/N",
    "FLOPs",
    "budget",
    "seed",
    "loss",
    "by the law",
    "bpb",
    "training tokens/s",
    "decode tokens/s",
)
#: Of the runs' CSV, in this order.
_WRITTEN = (
    "run_id",
    "name",
    "n_params",
    "n_params_non_embedding",
    "n_params_matmul",
    "n_tokens",
    "flops",
    "flops_budget",
    "seed",
    "loss",
    "bpb",
    "held_out",
    "excluded",
    "mlflow_url",
)


def runs(study: Study) -> Html:
    """Every run: fitted, held out and excluded, with the reason."""
    rows = _rows(study)
    columns = [
        Column(heading="run", align="left"),
        Column(heading="part", align="left"),
        *(Column(heading=heading) for heading in _HEADINGS),
    ]
    words = "N here counts all parameters. Decode speed at saturation. "
    if len(rows) > MOST_ROWS:
        words += f"The first {MOST_ROWS:,} of {len(rows):,} runs; all of them: "
    shown = table(columns, rows[:MOST_ROWS], label="Runs")
    button = element("button", "runs.csv", type="button", class_="save-runs")
    told = element("p", words, button, class_="files")
    if len(rows) <= OPEN_ROWS:
        return join([told, shown])
    find = element(
        "p",
        element("label", "Show runs that contain ", for_="find-run"),
        element("input", type="search", id="find-run"),
        " ",
        element("span", role="status", class_="soft", id="found-runs"),
        class_="find",
    )
    summary = element("summary", f"{len(rows):,} runs")
    return join([told, element("details", summary, find, shown, id="run-list")])


def runs_csv(study: Study) -> str:
    """The runs as read, with what the law predicts, for other tools."""
    predicted = {point.run_id: point.predicted for point in study.fit.points} if study.fit else {}
    frame = study.table.frame[list(_WRITTEN)]
    frame = frame.assign(predicted=frame["run_id"].map(predicted)).sort_values(["n_params", "n_tokens", "name"])
    return frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def _rows(study: Study) -> list[list[str]]:
    predicted = {point.run_id: point for point in study.fit.points} if study.fit else {}
    outliers = {one.run_id for one in study.fit.outliers} if study.fit else set()
    dropped = {one.run_id for one in study.fit.dropped} if study.fit else set()
    rows = []
    for row in study.table.frame.sort_values(["n_params", "n_tokens", "name"]).to_dict("records"):
        point = predicted.get(row["run_id"])
        excluded = str(row["excluded"])
        part = (
            f"excluded: {excluded}"
            if excluded
            else "dropped as an outlier"
            if row["run_id"] in dropped
            else "held out"
            if row["held_out"]
            else "fitted"
            if point
            else "usable"
        )
        if row["run_id"] in outliers:
            part += ", outlier"
        rows.append(
            [
                link(str(row["name"]), str(row["mlflow_url"])),
                part,
                cell(row["n_params"], "count"),
                cell(row["n_tokens"], "count"),
                cell(row["n_tokens"] / row["n_params"], "plain"),
                cell(row["flops"], "power"),
                cell(row["flops_budget"], "power"),
                cell(row["seed"], "plain"),
                cell(row["loss"], "plain", digits=5),
                cell(point.predicted if point else math.nan, "plain", digits=5),
                cell(row["bpb"], "plain", digits=4),
                cell(row["tokens_per_second"], "count"),
                cell(row["decode_tokens_per_second"], "count"),
            ]
        )
    return rows
