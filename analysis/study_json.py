"""The JSON document of `isoloss report RUNS --json`: the answer, and the documents of what it rests on."""

from __future__ import annotations

from typing import Any

from analysis.decisions.recommend_json import recommend_json
from analysis.fitting.fit_json import approaches_json, excluded_json, fit_json
from analysis.results import Study


def study_json(study: Study) -> dict[str, Any]:
    """The study as JSON values; a part that there is none of is null, and `absent` says why."""
    answer = study.answer
    return {
        "source": study.table.source,
        "headline": answer.headline,
        "sentences": list(answer.sentences),
        "measured": list(answer.measured),
        "interpolated": list(answer.interpolated),
        "extrapolated": list(answer.extrapolated),
        "recommendation": None if study.recommendation is None else recommend_json(study.recommendation),
        "fit": None
        if study.fit is None
        else fit_json(study.fit, structure=study.structure, extrapolation=study.extrapolation),
        "approaches": None if study.approaches is None else approaches_json(study.approaches),
        "excluded": excluded_json(study.table.excluded),
        "absent": study.absent,
        "warnings": list(study.table.warnings),
    }
