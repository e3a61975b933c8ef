"""A law and its forecasts, written down with a hash before the runs exist that will test them, and held against those later.

The hash is of the whole document. Noted elsewhere (a commit, a message), it shows later that nothing was changed since; the
file's own date is only a claim.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.extrapolation import forecast as forecast_loss
from analysis.laws import get_law
from analysis.results import Extrapolation, Fit, Forecast, Frozen, FrozenRun, Interval
from analysis.runs.table import RunTable, kind_of
from analysis.values_json import interval_json, intervals_json
from analysis.words import count
from llama.errors import UserError

FORMAT = "isoloss-frozen-law/1"
#: Quantiles of the draws that stand beside each forecast.
QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)
#: A run is the one that was forecast when its N and D are within this: planned tokens are rounded to whole batches.
SAME_RUN = 0.01
#: Exclusions of runs that have no final loss yet, and may get one.
PENDING = ("unfinished", "unstarted", "failed", "missing")


def freeze(
    fit: Fit,
    table: RunTable,
    path: Path,
    *,
    cells: Iterable[tuple[float, float]] = (),
    extrapolation: Extrapolation | None = None,
) -> Frozen:
    """Write the law and what it says of every run that it hasn't seen; return what was written.

    Forecast are the table's held-out runs, its runs without a final loss whose N and D are known, and `cells`.

    Args:
        fit: the law.
        table: that it was fitted to.
        path: of the new file, JSON; never overwritten.
        cells: (N, D) of runs that are no row of the table, N by the law's counting rule.
        extrapolation: how the law errs on larger runs, which widens the intervals.

    Raises:
        UserError: the file exists or can't be written, a cell isn't two positive numbers, or the law isn't of this table.
    """
    fitted_ids = {point.run_id for point in fit.points}
    if not fitted_ids <= set(table.frame["run_id"]):
        raise UserError(
            f"the law was not fitted to {table.source}: it lacks the run {min(fitted_ids - set(table.frame['run_id']))}"
        )
    document = _hashed(
        {
            "format": FORMAT,
            "frozen_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "isoloss": metadata.version("isoloss"),
            "source": table.source,
            "law": {
                "name": fit.law,
                "source": get_law(fit.law).source,
                "params": fit.params,
                "ci95": intervals_json(fit.ci95),
                "counting": fit.counting,
                "objective": fit.objective,
                "delta": fit.delta,
                "weights": fit.weights,
                "objective_value": fit.objective_value,
                "residual_sd": fit.residual_sd,
                "resampling": None if fit.resampling is None else asdict(fit.resampling),
            },
            "extrapolation": None
            if extrapolation is None
            else {
                "residual_sd": extrapolation.residual_sd,
                "growth": extrapolation.growth,
                "max_distance": extrapolation.max_distance,
                "ratio_growth": None if extrapolation.ratio is None else extrapolation.ratio.growth,
                "ratio_max_distance": None if extrapolation.ratio is None else extrapolation.ratio.max_distance,
            },
            "quantiles": list(QUANTILES),
            "data": {
                "digest": fit.data_digest,
                "fitted": [
                    _run(point.run_id, point.n_params, point.n_tokens, point.loss)
                    for point in fit.points
                    if not point.held_out
                ],
                "seen": _seen(fit, table, fitted_ids),
            },
            "forecasts": [forecast_json(one) for one in _forecasts(fit, table, cells, extrapolation)],
        }
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    except FileExistsError:
        raise UserError(f"{path} exists; frozen forecasts are never overwritten. Name a new file.") from None
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from None
    return read_frozen(path)


def read_frozen(path: Path) -> Frozen:
    """Read frozen forecasts back.

    Raises:
        UserError: no such file, not one that `freeze` wrote, or changed since.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as frozen forecasts: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} holds no frozen forecasts: its format is not {FORMAT!r}")
    noted = document.pop("sha256", None)
    if noted != _digest(document):
        raise UserError(f"{path} was changed since it was frozen: its content no longer has the hash that it states")
    law, data = document["law"], document["data"]
    return Frozen(
        path=str(path),
        sha256=noted,
        frozen_at=document["frozen_at"],
        source=document["source"],
        law=law["name"],
        params=law["params"],
        ci95=None if law["ci95"] is None else {name: _interval(pair) for name, pair in law["ci95"].items()},
        counting=law["counting"],
        objective=law["objective"],
        resampling=None if law["resampling"] is None else law["resampling"]["reason"],
        residual_sd=law["residual_sd"],
        data_digest=data["digest"],
        forecasts=tuple(
            Forecast(
                run_id=one["run_id"],
                name=one["name"],
                n_params=one["n_params"],
                n_tokens=one["n_tokens"],
                unique_tokens=one["unique_tokens"],
                kind=one["kind"],
                known_loss=one["known_loss"],
                loss=one["loss"],
                ci95=_interval(one["ci95"]),
                quantiles=None if one["quantiles"] is None else tuple(one["quantiles"]),
                distance=one["distance"],
                ratio_distance=one["ratio_distance"],
                note=one["note"],
            )
            for one in document["forecasts"]
        ),
        fitted=tuple(FrozenRun(**one) for one in data["fitted"]),
        seen=tuple(FrozenRun(**one) for one in data["seen"]),
    )


def _forecasts(
    fit: Fit, table: RunTable, cells: Iterable[tuple[float, float]], extrapolation: Extrapolation | None
) -> list[Forecast]:
    known = [
        (point.run_id, point.name, point.n_params, point.n_tokens, point.unique_tokens, "held_out", point.loss)
        for point in fit.points
        if point.held_out
    ]
    frame = table.frame
    pending = frame[frame["excluded"].map(kind_of).isin(PENDING) & (frame["excluded"] != "")]
    planned = (
        pending["planned_tokens"].fillna(pending["n_tokens"]) if "planned_tokens" in pending else pending["n_tokens"]
    )
    unique = pending["unique_tokens"] if "unique_tokens" in pending else pd.Series(np.nan, index=pending.index)
    # A run of the kind `missing` that has a loss lacks something else: its loss is known, so it can't be forecast.
    ahead = [
        (str(run_id), str(name), float(n), float(d), math.inf if math.isnan(u) else float(u), "unfinished", None)
        for run_id, name, n, d, u, reason, loss in zip(
            pending["run_id"],
            pending["name"],
            pending[fit.counting],
            planned,
            unique,
            pending["excluded"],
            pending["loss"],
            strict=True,
        )
        if n > 0 and 0 < d < math.inf and (math.isnan(loss) or kind_of(reason) != "missing")
    ]
    known_runs = _known(fit, frame)
    named = []
    for n_params, n_tokens in cells:
        if not (math.isfinite(n_params) and math.isfinite(n_tokens) and n_params > 0 and n_tokens > 0):
            raise UserError(f"a cell to forecast is N {n_params:g}, D {n_tokens:g}; both must be above 0 and finite")
        name = f"N={count(n_params)} D={count(n_tokens)}"
        off = [known_runs[fit.counting] / n_params - 1, known_runs["n_tokens"] / n_tokens - 1]
        same = known_runs[(off[0].abs() <= SAME_RUN) & (off[1].abs() <= SAME_RUN)]
        loss = float(same["loss"].iloc[0]) if len(same) else None
        named.append((None, name, float(n_params), float(n_tokens), math.inf, "cell", loss))
    law = get_law(fit.law)
    made = []
    for run_id, name, n_params, n_tokens, unique_tokens, kind, loss in (*known, *ahead, *named):
        said = forecast_loss(fit, extrapolation, n_params, n_tokens, unique_tokens)
        quantiles = None
        if fit.draws_KP is not None:
            drawn = law.predict(fit.draws_KP, n_params, n_tokens, unique_tokens)
            drawn = drawn[np.isfinite(drawn)]
            quantiles = tuple(float(value) for value in np.quantile(drawn, QUANTILES)) if len(drawn) else None
        made.append(
            Forecast(
                run_id=run_id,
                name=name,
                n_params=n_params,
                n_tokens=n_tokens,
                unique_tokens=unique_tokens if math.isfinite(unique_tokens) else None,
                kind=kind,  # type: ignore[arg-type]
                known_loss=loss,
                loss=said.loss,
                ci95=said.ci95,
                quantiles=quantiles,
                distance=said.distance,
                ratio_distance=said.ratio_distance,
                note=said.note,
            )
        )
    return made


def _known(fit: Fit, frame: pd.DataFrame) -> pd.DataFrame:
    """Runs whose final loss is there, usable or not; the loss on the way of one that may still finish is none."""
    numbers = frame[[fit.counting, "n_tokens", "loss"]]
    there = ((numbers > 0) & (numbers < np.inf)).all(axis=1)
    on_the_way = frame["excluded"].map(kind_of).isin(set(PENDING) - {"missing"})
    return frame[there & ~on_the_way]


def _seen(fit: Fit, table: RunTable, fitted_ids: set[str]) -> list[dict[str, Any]]:
    """Runs that were not fitted, by their numbers: whatever they were left out for, their losses were known."""
    runs = _known(fit, table.frame)
    runs = runs[~(runs["run_id"].isin(fitted_ids) & (runs["excluded"] == ""))]
    return [
        _run(str(run_id), float(n), float(d), float(loss))
        for run_id, n, d, loss in zip(runs["run_id"], runs[fit.counting], runs["n_tokens"], runs["loss"], strict=True)
    ]


def _run(run_id: str, n_params: float, n_tokens: float, loss: float) -> dict[str, Any]:
    return {"run_id": run_id, "n_params": n_params, "n_tokens": n_tokens, "loss": loss}


def forecast_json(one: Forecast) -> dict[str, Any]:
    """A forecast as the frozen file holds it."""
    return {
        "run_id": one.run_id,
        "name": one.name,
        "n_params": one.n_params,
        "n_tokens": one.n_tokens,
        "unique_tokens": one.unique_tokens,
        "kind": one.kind,
        "known_loss": one.known_loss,
        "loss": one.loss,
        "ci95": interval_json(one.ci95),
        "quantiles": None if one.quantiles is None else list(one.quantiles),
        "distance": one.distance,
        "ratio_distance": one.ratio_distance,
        "note": one.note,
    }


def _interval(pair: list[float | None]) -> Interval:
    """An end that is null was infinite."""
    return Interval(lo=-math.inf if pair[0] is None else pair[0], hi=math.inf if pair[1] is None else pair[1])


def _hashed(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "sha256": _digest(document)}


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of the content whatever its layout: keys sorted, no spaces, floats as they read back."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
