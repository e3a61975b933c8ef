"""What was asked of the fit before it is believed: other approaches, extrapolation, structure, runs that were set aside."""

from __future__ import annotations

from itertools import groupby

from analysis.fitting.describe_fit import AXIS_LABELS
from analysis.optima.describe_approaches import TITLES
from analysis.page.cells import NOTHING, cell, missing, percent, span
from analysis.page.markup import Column, Html, bullets, element, join, table
from analysis.plots.residuals import p_words
from analysis.plots.style import Unit, format_number
from analysis.results import Approach, Estimate, Excluded, Outlier, Study

#: Excluded runs of one reason that are named.
_MOST_NAMED = 8


def approaches(study: Study) -> Html:
    """Hoffmann et al.'s three approaches at one budget."""
    three = study.approaches
    if three is None:
        return missing(study, "approaches")
    rows = [_approach_cells(one) for one in three.approaches]
    columns = [
        Column(heading="approach", align="left"),
        *(
            Column(heading=heading)
            for heading in ("runs", "power of C in N", "power of C in D", "N_opt", "D_opt", "loss")
        ),
    ]
    words = (
        f"At {format_number(three.flops, 'power')} FLOPs, {three.flops / three.largest_flops:.3g} times the largest fitted "
        f"run's. "
        f"Training: {three.flops_rule}."
    )
    if three.n_opt_spread is not None:
        words += f" The approaches' N_opt lie within a factor of {three.n_opt_spread:.3g}."
    # The surface's own warnings stand at the top of the page.
    told = [
        f"{TITLES[one.name]}: {text}"
        for one in three.approaches
        for text in (*one.absent.values(), *(one.warnings if one.number != 3 else ()))
    ]
    told += [text for text in three.warnings if text not in study.table.warnings]
    return join(
        [
            element("p", words),
            table(columns, rows, label="The three approaches"),
            bullets(told) if told else Html(),
        ]
    )


def _approach_cells(one: Approach) -> list[str]:
    def told(estimate: Estimate | None, unit: Unit) -> str:
        if estimate is None:
            return NOTHING
        between = "" if estimate.ci95 is None else f" [{span(estimate.ci95, unit)}]"
        return f"{format_number(estimate.value, unit)}{between}"

    return [
        TITLES[one.name],
        str(one.n_runs),
        told(one.n_opt_exponent, "plain"),
        told(one.d_opt_exponent, "plain"),
        told(one.n_opt, "count"),
        told(one.d_opt, "count"),
        told(one.loss, "plain"),
    ]


def extrapolation(study: Study) -> Html:
    """Windows of the smaller runs and how far off they were on the larger ones."""
    tried = study.extrapolation
    if tried is None:
        return missing(study, "extrapolation")
    rows = [
        [
            format_number(window.max_compute, "power"),
            str(window.n_runs),
            str(window.n_predicted),
            NOTHING if window.rms_log_error is None else percent(window.rms_log_error),
            NOTHING if window.skipped else f"{format_number(_farthest(study, k), 'count')}×",
            window.skipped or "",
        ]
        for k, window in enumerate(tried.windows)
    ]
    columns = [
        *(Column(heading=heading) for heading in ("largest N D", "runs fitted", "runs predicted", "rms log error")),
        Column(heading="farthest"),
        Column(heading="why it was skipped", align="left"),
    ]
    words = (
        f"A law was fitted to the runs up to each compute and held against the larger ones. Sd of log error: "
        f"{percent(tried.residual_sd)} at the fitted runs; at 10 times their largest compute "
        f"{percent(tried.log_error_sd(10.0))}, "
        f"at 100 times {percent(tried.log_error_sd(100.0))}. Beyond "
        f"{format_number(tried.max_distance, 'count')} times nothing was tried. "
        + (
            "No window of ratios D/N could be fitted: of the error outside the fitted ratios nothing is known."
            if tried.ratio is None
            else f"At a D/N 4 times outside the fitted ones, and no more compute, it is "
            f"{percent(tried.log_error_sd(1.0, 4.0))}, "
            f"tried up to {format_number(tried.ratio.max_distance, 'count')} times in windows of D/N."
        )
    )
    return join([element("p", words), table(columns, rows, label="Windows of the smaller runs")])


def _farthest(study: Study, window: int) -> float:
    assert study.extrapolation is not None
    return max((one.distance for one in study.extrapolation.forecasts if one.window == window), default=1.0)


def structure(study: Study) -> Html:
    """Whether residuals still go with N, D or D/N."""
    tested = study.structure
    if tested is None:
        return missing(study, "structure")
    rows = [
        [
            AXIS_LABELS[axis.axis],
            p_words(axis.p_value),
            p_words(axis.p_holm),
            "structured" if axis.structured else "no structure shown" if axis.p_value is not None else "not testable",
            axis.shape,
        ]
        for axis in tested.axes
    ]
    columns = [
        Column(heading="against", align="left"),
        Column(heading="p"),
        Column(heading="p (Holm)"),
        Column(heading="verdict", align="left"),
        Column(heading="where the law lies", align="left"),
    ]
    words = f"{tested.method} Level: {tested.level:g}."
    return join([element("p", words), table(columns, rows, label="Structure in the residuals")])


def set_aside(study: Study) -> Html:
    """Outliers, sizes with a doubtful learning rate, and excluded runs, each with its reason."""
    fit = study.fit
    parts: list[Html] = []
    flagged = [*((one, "dropped") for one in fit.dropped), *((one, "kept") for one in fit.outliers)] if fit else []
    if fit and flagged:
        parts += [
            element("h3", "Outliers"),
            element(
                "p", f"{_sentence(fit.outlier_rule)} They are dropped only where that was asked for.", class_="soft"
            ),
            _outliers(flagged),
        ]
    if fit and fit.off_rate:
        rows = [
            [
                format_number(one.n_params, "count"),
                str(one.n_runs),
                format_number(one.peak_lr, "plain"),
                cell(one.tuned_lr, "plain"),
                one.reason,
            ]
            for one in fit.off_rate
        ]
        columns = [
            *(Column(heading=heading) for heading in ("N", "runs", "learning rate", "tuned")),
            Column(heading="reason", align="left"),
        ]
        parts += [element("h3", "Learning rates"), table(columns, rows, label="Doubtful learning rates")]
    excluded = {one.run_id: one for one in (*study.table.excluded, *(fit.excluded if fit else ()))}
    if excluded:
        parts += [element("h3", f"Excluded runs ({len(excluded)})"), _excluded(study, list(excluded.values()))]
    return join(parts) if parts else element("p", "Every run was used, and none is an outlier.")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _outliers(flagged: list[tuple[Outlier, str]]) -> Html:
    rows = [
        [
            one.name,
            NOTHING if one.row is None else str(one.row),
            percent(one.log_residual),
            format_number(one.robust_sds, "plain"),
            what,
        ]
        for one, what in flagged
    ]
    columns = [
        Column(heading="run", align="left"),
        *(Column(heading=heading) for heading in ("row", "log predicted − log measured", "robust sds")),
        Column(heading="in the fit", align="left"),
    ]
    return table(columns, rows, label="Outliers")


def _excluded(study: Study, runs: list[Excluded]) -> Html:
    """One row a reason, the most frequent first; the runs' table has them all."""
    names = dict(zip(study.table.frame["run_id"].astype(str), study.table.frame["name"].astype(str), strict=True))
    by_reason = {
        reason: list(found)
        for reason, found in groupby(sorted(runs, key=lambda one: one.reason), lambda one: one.reason)
    }
    rows = []
    for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        named = [_row_words(names.get(one.run_id, one.run_id), one.row) for one in found[:_MOST_NAMED]]
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        rows.append([reason, str(len(found)), f"{', '.join(named)}{more}"])
    columns = [Column(heading="reason", align="left"), Column(heading="runs"), Column(heading="which", align="left")]
    return table(columns, rows, label="Excluded runs")


def _row_words(name: str, row: int | None) -> str:
    return name if row is None or name == f"row-{row}" else f"{name} (row {row})"
