"""The report: one HTML file with the answer, the law, the pictures and the tables, that loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from analysis.page import advice, checks, decision, panel, run_list, sections
from analysis.page.cells import Missing, section
from analysis.page.markup import Html, escape, join
from analysis.plots import canvas, interactive
from analysis.plots.gallery import make_pictures, save_pictures
from analysis.plots.picture import Absent, Picture
from analysis.results import Study
from analysis.runs.table import LossCurve, RunTable
from analysis.study import analyse
from llama.atomic_files import write_atomically

#: In this order, after Plotly.
SCRIPTS = ("decision.js", "panel.js", "report.js")
_VERSIONS = ("isoloss", "numpy", "scipy", "pandas", "matplotlib", "plotly")


def report(
    table: RunTable,
    folder: Path,
    *,
    curves: tuple[LossCurve, ...] = (),
    provenance: Mapping[str, str] | None = None,
    **options: Any,
) -> Study:
    """Analyse `table` and write `folder/report.html`, every picture (PNG, SVG) and every plotted point (CSV).

    Args:
        table, curves: from `load_runs` and `load_curves`.
        provenance: as for `write_report`.
        options: as `analysis.analyse` takes them.

    Raises:
        UserError: no run can be used, or an option is impossible.
    """
    study = analyse(table, curves=curves, **options)
    save_pictures(study, folder)
    write_report(study, folder, provenance=provenance)
    return study


def write_report(study: Study, folder: Path, *, provenance: Mapping[str, str] | None = None) -> Path:
    """Write `folder/report.html` and return its path.

    `provenance` adds facts that the study does not hold, such as the corpus digest, the sweep's id and the code's commit;
    they are printed as given.
    """
    made = make_pictures(study)
    pictures = [one for one in made if isinstance(one, Picture)]
    absent = [one for one in made if isinstance(one, Absent)]
    # Sliders reach far beyond the runs, where a law may pass what a double holds: such values are no answers.
    with np.errstate(all="ignore"):
        body, decide = _body(study, pictures, absent, provenance or {}), decision.payload(study)
    page = _asset("report.html").substitute(
        title=escape(f"Scaling study: {study.table.source}"),
        style=_asset("report.css").template,
        body=body,
        figures=_script_json({picture.stem: _payload(picture) for picture in pictures}),
        runs=_script_json(run_list.runs_csv(study)),
        decision=_script_json(decide),
        plotly=_plotly(),
        scripts="\n</script>\n<script>\n".join(_asset(name).template for name in SCRIPTS),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomically(path, page, durable=False)
    return path


def _body(study: Study, pictures: list[Picture], absent: list[Absent], provenance: Mapping[str, str]) -> Html:
    figures = [sections.figure(picture, _inline_svg(picture)) for picture in pictures]
    parts: dict[str, tuple[str, Html]] = {
        "decision": ("Decide: demand, prices, utilisation, target loss", panel.panel(study)),
        "recommendation": ("What to train", advice.recommendation(study)),
        "uncertainty": ("What the decision hangs on", advice.uncertainty(study)),
        "law": ("The fitted law", sections.law(study)),
        "pictures": ("Pictures", join([*figures, sections.missing_pictures(absent)])),
        "approaches": ("Three approaches side by side", checks.approaches(study)),
        "extrapolation": ("Extrapolation, tried on the runs at hand", checks.extrapolation(study)),
        "structure": ("Structure in the residuals", checks.structure(study)),
        "pairs": ("Matched pairs: smaller, trained longer", sections.pairs(study)),
        "lifetime": ("Lifetime optimum", sections.lifetime(study)),
        "bowls": ("IsoFLOP vertices", sections.bowls(study)),
        "inference": ("Measured inference cost", sections.inference(study)),
        "set-aside": ("Runs flagged and set aside", checks.set_aside(study)),
        "runs": ("Runs", run_list.runs(study)),
        "provenance": ("Where this comes from", sections.provenance({**_facts(study), **provenance})),
    }
    absent_parts = [(title, body) for title, body in parts.values() if isinstance(body, Missing)]
    parts = {anchor: part for anchor, part in parts.items() if not isinstance(part[1], Missing)}
    if absent_parts:
        parts["absent"] = ("What these runs can't give", sections.absent_parts(absent_parts))
    contents = {anchor: title for anchor, (title, _) in parts.items()}
    return join(
        [
            sections.opening(study, contents),
            *(section(anchor, title, body) for anchor, (title, body) in parts.items()),
        ]
    )


def _payload(picture: Picture) -> dict[str, Any]:
    csv = picture.points().to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return {**interactive.figure(picture), "csv": csv}


def _facts(study: Study) -> dict[str, str]:
    columns = ["run_id", "n_params", "n_tokens", "flops", "loss", "held_out", "excluded"]
    rows = study.table.frame[columns].sort_values("run_id").to_csv(index=False, lineterminator="\n")
    return {
        "runs": study.table.source,
        "digest of the runs' table": f"sha256:{hashlib.sha256(rows.encode()).hexdigest()}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in _VERSIONS)
        + f", Python {platform.python_version()}",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed as a package)"


def _asset(name: str) -> Template:
    return Template(files("analysis.page").joinpath(name).read_text(encoding="utf-8"))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _inline_svg(picture: Picture) -> str:
    """The picture's SVG as part of a page: no prolog, no metadata, no fixed size, and ids that are its own."""
    text = canvas.svg(picture, standalone=False)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{picture.stem}-', text)
    return re.sub(r'(href="|url\()#', rf"\1#{picture.stem}-", text)


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no text from data can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
