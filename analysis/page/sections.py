"""The sections of a report, each from its part of the study. Every text from data goes through `markup`, which escapes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.decisions.describe_recommendation import headline
from analysis.laws import get_law
from analysis.laws.base import Parameter
from analysis.page.cells import (
    NOTHING,
    cost_unit,
    demand_words,
    facts,
    interval,
    missing,
    number,
    percent,
    span,
)
from analysis.page.markup import Column, Html, bullets, element, join, table
from analysis.plots.inference import measured_sizes
from analysis.plots.parts import OBJECTIVE_WORDS, counting_words, evenly
from analysis.plots.picture import Absent, Picture
from analysis.plots.style import format_number
from analysis.results import Answer, Fit, Lifetime, MatchedPair, Optimum, PairSide, Study

#: Grounds of the answer that stand open.
_MOST_GROUNDS = 9
#: Measured pairs that are shown.
_MOST_PAIRS = 12
#: Break-evens that are shown; of more, evenly picked ones.
_MOST_BREAK_EVENS = 30


def opening(study: Study, contents: Mapping[str, str]) -> Html:
    """The answer in words, what it rests on, and the warnings: all that a reader in a hurry needs."""
    answer = study.answer
    return join(
        [
            element("h1", "Scaling study"),
            element("p", f"{len(study.table.usable)} usable runs from {study.table.source}", class_="soft"),
            element("p", answer.headline, class_="headline"),
            _advice(study),
            bullets(answer.sentences) if answer.sentences else Html(),
            _grounds(answer),
            _warnings(study),
            element(
                "nav",
                element(
                    "ul", *(element("li", element("a", text, href=f"#{anchor}")) for anchor, text in contents.items())
                ),
                aria_label="Contents",
            ),
        ]
    )


def _advice(study: Study) -> Html:
    """The recommendation, where it isn't the headline already."""
    said = headline(study.recommendation) if study.recommendation else ""
    return element("p", said, class_="advice") if said and said != study.answer.headline else Html()


def _grounds(answer: Answer) -> Html:
    """What was measured and what lies between and beyond it; folded where it would push the decision off the screen."""
    parts = (
        ("Measured", answer.measured),
        ("Interpolated", answer.interpolated),
        ("Extrapolated", answer.extrapolated),
    )
    columns = [element("div", element("h3", heading), bullets(items)) for heading, items in parts if items]
    if not columns:
        return Html()
    grounds = element("div", *columns, class_="columns")
    if sum(len(items) for _, items in parts) <= _MOST_GROUNDS:
        return grounds
    told = ", ".join(f"{len(items)} {heading.lower()}" for heading, items in parts if items)
    return element("details", element("summary", f"What this rests on: {told}"), grounds, class_="printed")


def _warnings(study: Study) -> Html:
    whole = study.recommendation.uncertainty if study.recommendation else None
    told = (*study.table.warnings, *(study.fit.warnings if study.fit else ()), *(whole.warnings if whole else ()))
    warnings = list(dict.fromkeys(told))
    if not warnings:
        return Html()
    return element("div", element("h3", "Warnings"), bullets(warnings), class_="warnings")


def law(study: Study) -> Html:
    """The fitted law with its intervals, its held-out error and the evidence that the optimum is one."""
    fit = study.fit
    if fit is None:
        return missing(study, "fit")
    parameters = {parameter.name: parameter for parameter in get_law(fit.law).parameters}
    rows = [
        [name, number(value), interval(fit.ci95, name), _unit(parameters[name]), parameters[name].meaning]
        for name, value in fit.params.items()
    ]
    exponents = fit.exponents
    rows += [
        [name, number(value), interval(exponents.ci95, name), NOTHING, f"{quantity} goes as C to this power"]
        for name, value, quantity in (("n_opt", exponents.n_opt, "N_opt"), ("d_opt", exponents.d_opt, "D_opt"))
    ]
    columns = [
        Column(heading="parameter", align="left"),
        Column(heading="value"),
        Column(heading="95 % interval"),
        Column(heading="unit", align="left"),
        Column(heading="meaning", align="left"),
    ]
    return join(
        [
            element("p", f"{get_law(fit.law).source}. {counting_words(study)}"),
            table(columns, rows, label="Fitted parameters"),
            facts(_evidence(fit)),
            _budgets(study),
        ]
    )


def _unit(parameter: Parameter) -> str:
    """As a reader writes it: a parameter of unit 1 has none."""
    return NOTHING if parameter.unit == "1" else parameter.unit.replace(" * ", " · ")


def _evidence(fit: Fit) -> dict[str, str]:
    held_out = "no run was held out"
    if fit.held_out:
        held_out = (
            f"{fit.held_out.n} {'run' if fit.held_out.n == 1 else 'runs'}, predicted "
            f"{percent(fit.held_out.mean_abs_rel_error)} off on average, {percent(fit.held_out.max_abs_rel_error)} at most"
        )
    solved = fit.convergence
    threshold = f", delta {fit.delta:g}" if fit.objective == "huber_log" else ""
    found = f"{solved.n_starts} starts ended in {solved.n_optima} {'optimum' if solved.n_optima == 1 else 'optima'}"
    bounds = f"; on a bound: {', '.join(solved.bound_hits)}" if solved.bound_hits else ""
    range_ = fit.fitted_range
    return {
        "fitted to": f"{fit.n_runs} runs of {fit.n_sizes} sizes",
        "held out": held_out,
        "objective": f"{fit.objective}{threshold} ({_objective(fit)}): sum over runs {fit.objective_value:.6g}",
        "residuals": f"sd {percent(fit.residual_sd)} of the loss",
        "intervals": (
            f"{fit.resampling.draws} bootstrap draws by {fit.resampling.method}. {fit.resampling.reason}"
            if fit.resampling
            else "none: no bootstrap was asked for"
        ),
        "optimum": f"{found}{bounds}; gradient norm {solved.gradient_norm:.1e}, condition number {solved.condition_number:.1e}",
        "fitted range": (
            f"N {span(range_.n_params, 'count')}, D {span(range_.n_tokens, 'count')}, "
            f"D/N {span(range_.tokens_per_param, 'plain')}, N D {span(range_.n_times_d, 'power')}: beyond it everything is "
            "extrapolated"
        ),
    }


def _budgets(study: Study) -> Html:
    if not study.budgets:
        return Html()
    rows = [
        [
            format_number(budget.flops, "power"),
            *_optimum_cells(budget.optimum, with_cost=False),
            "; ".join(budget.optimum.outside_fitted_range) or "inside the fitted range",
        ]
        for budget in study.budgets
    ]
    columns = [
        *(Column(heading=heading) for heading in ("C (FLOPs)", "N_opt", "95 %", "D_opt", "95 %", "loss", "95 %")),
        Column(heading="ground", align="left"),
    ]
    return join([element("h3", "Compute-optimal models"), table(columns, rows, label="Compute-optimal models")])


def _optimum_cells(optimum: Optimum, *, with_cost: bool) -> list[str]:
    cells = [
        format_number(optimum.n_params, "count"),
        interval(optimum.ci95, "n_params", "count"),
        format_number(optimum.n_tokens, "count"),
        interval(optimum.ci95, "n_tokens", "count"),
    ]
    if with_cost:
        unit = cost_unit(optimum.unit)
        return [*cells, format_number(optimum.cost, unit), interval(optimum.ci95, "cost", unit)]
    return [*cells, f"{optimum.loss:.3f}", interval(optimum.ci95, "loss", digits=4)]


def bowls(study: Study) -> Html:
    """Vertices of the isoFLOP bowls, trusted or not."""
    if study.isoflop is None:
        return missing(study, "isoflop")
    rows = [
        [
            format_number(vertex.flops_budget, "power"),
            str(len(vertex.points)),
            format_number(vertex.n_opt, "count") if vertex.n_opt else NOTHING,
            format_number(vertex.d_opt, "count") if vertex.d_opt else NOTHING,
            f"{vertex.loss:.4f}" if vertex.loss else NOTHING,
            vertex.flag or "trusted",
        ]
        for vertex in study.isoflop.vertices
    ]
    columns = [
        *(Column(heading=heading) for heading in ("budget (FLOPs)", "sizes", "N at the vertex", "D", "loss")),
        Column(heading="verdict", align="left"),
    ]
    skipped = bullets(study.isoflop.skipped) if study.isoflop.skipped else Html()
    return join([table(columns, rows, label="IsoFLOP vertices"), skipped])


def pairs(study: Study) -> Html:
    """Smaller models trained longer beside larger ones of near-equal loss."""
    if not study.pairs:
        return missing(study, "pairs")
    # Measured pairs come first, the most telling first; fitted ones are few and never cut.
    measured = [pair for pair in study.pairs if pair.kind == "measured"]
    shown = [*measured[:_MOST_PAIRS], *(pair for pair in study.pairs if pair.kind != "measured")]
    rows = [_pair_cells(pair) for pair in shown]
    columns = [
        Column(heading="kind", align="left"),
        Column(heading="smaller", align="left"),
        Column(heading="larger", align="left"),
        *(Column(heading=heading) for heading in ("loss gap", "training FLOPs", "training time")),
        *(Column(heading=heading) for heading in ("speed, batch 1", "speed, saturated", "paid for after")),
        Column(heading="extrapolated", align="left"),
    ]
    words = (
        "Ratios are smaller over larger. A pair is measured where both are finished runs, fitted where the law names the "
        "smaller model. The last number is the demand in tokens at which serving has paid for the longer training, "
        "with its 5th to 95th percentile from the spread of the timings."
    )
    if len(measured) > _MOST_PAIRS:
        words += f" Of {len(measured):,} measured pairs these are the {_MOST_PAIRS} most telling."
    columns, rows = _telling(columns, rows)
    return join([element("p", words, class_="soft"), table(columns, rows, label="Matched pairs")])


def _telling(columns: list[Column], rows: list[list[str]]) -> tuple[list[Column], list[list[str]]]:
    """Without the columns in which no row says anything."""
    kept = [k for k in range(len(columns)) if any(row[k] not in ("", NOTHING) for row in rows)]
    return [columns[k] for k in kept], [[row[k] for k in kept] for row in rows]


def _pair_cells(pair: MatchedPair) -> list[str]:
    def side(one: PairSide) -> str:
        return (
            f"{one.name}: {format_number(one.n_params, 'count')} on {format_number(one.n_tokens, 'count')} tokens, "
            f"loss {one.loss:.3f}"
        )

    paid = pair.break_even_tokens
    return [
        pair.kind,
        side(pair.small),
        side(pair.large),
        f"{pair.loss_gap:+.4f}".replace("-", "−"),
        *(
            NOTHING if ratio is None else f"{ratio:.2f}×"
            for ratio in (
                pair.train_flops_ratio,
                pair.train_seconds_ratio,
                pair.speedup_batch_1,
                pair.speedup_saturated,
            )
        ),
        "never, or not measured"
        if paid is None
        else "at once"
        if paid == 0
        else f"{format_number(paid, 'count')} tokens"
        + ("" if pair.break_even_range is None else f" [{span(pair.break_even_range, 'count')}]"),
        "; ".join(pair.extrapolated),
    ]


def lifetime(study: Study) -> Html:
    """The cheapest model to train, and to own, at one loss; and the demands at which sizes change places."""
    decision = study.lifetime
    if decision is None:
        return missing(study, "lifetime")
    demand = format_number(decision.demand_tokens, "count")
    rows = [
        [
            name,
            *_optimum_cells(optimum, with_cost=True),
            "; ".join(optimum.outside_fitted_range) or "inside the fitted range",
        ]
        for name, optimum in (
            ("cheapest to train", decision.training_optimal),
            (f"cheapest to train and serve {demand} tokens", decision.lifetime_optimal),
        )
    ]
    columns = [
        Column(heading="model", align="left"),
        *(Column(heading=heading) for heading in ("N", "95 %", "D", "95 %", f"cost ({decision.costs.unit})", "95 %")),
        Column(heading="ground", align="left"),
    ]
    train, serve = decision.costs.train, decision.costs.serve
    told = {
        "target loss": f"{decision.target_loss:.4f} nats a token",
        "cost of training": train.rule,
        "cost of serving": serve.rule,
    }
    return join(
        [
            table(columns, rows, label="Training-optimal and lifetime-optimal model"),
            facts(told),
            _break_evens(decision),
        ]
    )


def _break_evens(decision: Lifetime) -> Html:
    if not decision.break_even:
        return Html()
    rows = []
    for k in evenly(len(decision.break_even), _MOST_BREAK_EVENS):
        crossing = decision.break_even[k]
        ci95 = span(crossing.ci95, "count") if crossing.demand_tokens else NOTHING
        sizes = [format_number(size, "count") for size in (crossing.small, crossing.large)]
        rows.append([*sizes, demand_words(crossing.demand_tokens), ci95])
    columns = [Column(heading=heading) for heading in ("smaller", "larger", "tokens served to break even", "95 %")]
    title = "Break-even demand between sizes"
    if len(rows) < len(decision.break_even):
        title += f" ({len(rows)} of {len(decision.break_even):,} neighbours)"
    return join([element("h3", title), table(columns, rows, label="Break-even demand")])


def inference(study: Study) -> Html:
    """Measured serving cost by size and batch."""
    measured = measured_sizes(study)
    if not measured:
        return missing(study, "serving")
    rows = [
        [
            format_number(n_params, "count"),
            str(point.batch),
            format_number(point.ttft_seconds.median, "seconds"),
            format_number(point.tpot_seconds.median, "seconds"),
            f"{format_number(point.tpot_seconds.p5, 'seconds')} to {format_number(point.tpot_seconds.p95, 'seconds')}",
            format_number(point.prefill_tokens_per_second, "count"),
            format_number(point.decode_tokens_per_second, "count"),
        ]
        for n_params, cost in measured.items()
        for point in cost.points
    ]
    headings = ("N", "batch", "TTFT", "TPOT", "TPOT, 5 to 95 %", "prefill tokens/s", "decode tokens/s")
    overheads = []
    for fit in study.serving.batches if study.serving else ():
        if fit.batch in (1, None):
            where = "at saturation" if fit.batch is None else "at batch 1"
            t0, slope = format_number(fit.t0_seconds, "seconds"), format_number(fit.seconds_per_param, "seconds")
            overheads.append(f"{fit.phase} {where}: {t0} + {slope} · N a token, within {100 * fit.max_rel_error:.1f} %")
    return join(
        [
            table([Column(heading=heading) for heading in headings], rows, label="Measured inference cost"),
            bullets(overheads) if overheads else Html(),
        ]
    )


def figure(picture: Picture, svg: str) -> Html:
    """A picture with its caption: SVG until the page's script puts the interactive chart in its place."""
    buttons = [
        element("button", f"{picture.stem}.{suffix}", type="button", class_=f"save-{suffix}")
        for suffix in ("csv", "svg")
    ]
    return element(
        "figure",
        element("h3", picture.title),
        element("div", Html(svg), class_="static"),
        element("div", class_="interactive"),
        element("p", class_="picked"),
        element("figcaption", picture.caption),
        element("p", "Plotted points and picture: ", *buttons, class_="files"),
        id=f"figure-{picture.stem}",
        data_stem=picture.stem,
    )


def absent_parts(found: Sequence[tuple[str, Html]]) -> Html:
    """Sections that these runs can't give, each with its reason."""
    return bullets(join([element("b", title), ": ", reason]) for title, reason in found)


def missing_pictures(absent: Sequence[Absent]) -> Html:
    if not absent:
        return Html()
    items = [join([element("b", one.title), f": {one.reason}"]) for one in absent]
    return join([element("h3", "Pictures that these runs can't give"), bullets(items)])


def provenance(known: Mapping[str, str]) -> Html:
    return facts(known)


def _objective(fit: Fit) -> str:
    return OBJECTIVE_WORDS.get(fit.objective, fit.objective).partition(" (")[0]
