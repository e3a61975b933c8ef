"""Measured serving: decode speed against batch by size, and time a token against N with its overhead t0."""

from __future__ import annotations

import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import BatchCost, Study
from llama.records import InferenceCost


def inference_speed(study: Study) -> Picture | Absent:
    """Decode tokens a second over batches, and seconds a decoded token over N at batch 1 and at saturation."""
    stem, title = "inference", "Measured serving speed"
    measured = measured_sizes(study)
    if not measured:
        reason = study.absent.get("serving", "no run has a measured inference cost")
        return Absent(stem=stem, title=title, reason=reason)
    colours = parts.colours_by_size(study)
    names = parts.legend_names(measured)
    by_batch: list[Layer] = []
    for n_params, cost in measured.items():
        table = pd.DataFrame(
            {
                "batch": [point.batch for point in cost.points],
                "decode_tokens_per_second": [point.decode_tokens_per_second for point in cost.points],
                "prefill_tokens_per_second": [point.prefill_tokens_per_second for point in cost.points],
                "tpot_seconds": [point.tpot_seconds.median for point in cost.points],
                "ttft_seconds": [point.ttft_seconds.median for point in cost.points],
                "n_params": n_params,
            }
        )
        colour = colours.get(n_params, style.INK)
        by_batch.append(Line(table=table, series="size", colour=colour, width=1.2, legend=names.get(n_params)))
        by_batch.append(Points(table=table, series="measured", colour=colour, size=4.5))
    panels = [
        Panel(
            x=Axis(column="batch", label="batch (sequences)", unit="plain", ticks=_batches(measured)),
            y=Axis(column="decode_tokens_per_second", label="decoded tokens a second", unit="count"),
            layers=by_batch,
        ),
        Panel(
            x=Axis(column="n_params", label="parameters N", unit="count"),
            y=Axis(column="tpot_seconds", label="time a decoded token", unit="seconds"),
            layers=_time_layers(study, measured),
        ),
    ]
    first = next(iter(measured.values()))
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    caption = (
        f"Left: median of {first.repetitions} repetitions, {first.prompt_tokens} prompt and {first.output_tokens} output "
        f"tokens on {first.device}, {threads}, {first.dtype}. Right: TPOT at batch 1 with its 5th to 95th percentile, and "
        f"the time a token at the batch where decoding saturates; lines: t0 + c N, where t0 is overhead that no smaller "
        f"model can save. {parts.counting_words(study)}"
    )
    return Picture(stem=stem, title=title, caption=caption, panels=panels, legend_title="parameters N")


def _batches(measured: dict[float, InferenceCost]) -> tuple[float, ...]:
    """The measured batches; every second one where they are many."""
    batches = sorted({float(point.batch) for cost in measured.values() for point in cost.points})
    return tuple(batches[:: 1 + len(batches) // 9])


def measured_sizes(study: Study) -> dict[float, InferenceCost]:
    """One measured cost a size, by N under the fit's counting rule, ascending."""
    frame = study.table.usable
    sizes = dict(zip(frame["run_id"], frame[parts.counting(study)].astype(float), strict=True))
    found: dict[float, InferenceCost] = {}
    for run_id, cost in study.table.inference.items():
        if run_id in sizes:
            found.setdefault(sizes[run_id], cost)
    return dict(sorted(found.items()))


def _time_layers(study: Study, measured: dict[float, InferenceCost]) -> list[Layer]:
    rows_1, rows_full = [], []
    for n_params, cost in measured.items():
        single = next((point for point in cost.points if point.batch == 1), None)
        if single is not None:
            tpot = single.tpot_seconds
            rows_1.append(
                {
                    "n_params": n_params,
                    "tpot_seconds": tpot.median,
                    "low": tpot.p5,
                    "high": tpot.p95,
                    "batch": 1,
                }
            )
        full = cost.saturated
        rows_full.append({"n_params": n_params, "tpot_seconds": 1 / full.decode_tokens_per_second, "batch": full.batch})
    layers: list[Layer] = []
    fits = {cost.batch: cost for cost in study.serving.batches if cost.phase == "decode"} if study.serving else {}
    for batch, rows, colour, words in (
        (1, rows_1, style.SECOND, "batch 1"),
        (None, rows_full, style.ACCENT, "saturated"),
    ):
        if rows:
            layers.append(Points(table=pd.DataFrame(rows), series=words, colour=colour, legend=words))
        if batch in fits:
            layers.append(_time_line(fits[batch], colour, words))
    return layers


def _time_line(fit: BatchCost, colour: str, words: str) -> Line:
    n_params = parts.log_grid(float(fit.n_params_G.min()), float(fit.n_params_G.max()), 41)
    table = pd.DataFrame({"n_params": n_params, "tpot_seconds": fit.t0_seconds + fit.seconds_per_param * n_params})
    t0, slope = (style.format_number(value, "seconds") for value in (fit.t0_seconds, fit.seconds_per_param))
    text = f"{t0} + {slope} · N"
    return Line(table=table, series=f"{words}, t0 + c N", colour=colour, dash="dashed", width=1.1, legend=text)
