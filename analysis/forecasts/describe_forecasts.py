"""Frozen forecasts, and what became of them: in words, and as the command's JSON."""

from __future__ import annotations

from typing import Any

from analysis.forecasts.freeze import forecast_json
from analysis.results import ForecastCheck, Frozen
from analysis.values_json import finite, interval_json
from analysis.words import count


def describe_frozen(frozen: Frozen) -> tuple[str, ...]:
    """What was frozen, in sentences."""
    kinds = {"held_out": "held-out", "unfinished": "unfinished", "cell": "named"}
    made = [
        f"{sum(one.kind == kind for one in frozen.forecasts)} {word}"
        for kind, word in kinds.items()
        if any(one.kind == kind for one in frozen.forecasts)
    ]
    return (
        f"Froze the law {frozen.law} ({frozen.counting}, {len(frozen.fitted)} runs of {frozen.source}) in {frozen.path}: "
        + (f"forecasts of {', '.join(made)} runs." if made else "no forecasts, since every run was fitted."),
        f"SHA-256 {frozen.sha256}. Note it where it can't be changed, such as in a commit.",
        *(
            f"{one.name}: {count(one.n_params)} parameters, {count(one.n_tokens)} tokens: loss {one.loss:.4f} "
            f"({one.ci95.lo:.4f} to {one.ci95.hi:.4f})" + (f"; {one.note}" if one.note else "")
            for one in frozen.forecasts
        ),
    )


def frozen_json(frozen: Frozen) -> dict[str, Any]:
    """What `isoloss fit --freeze FILE --json` says of the file."""
    return {
        "path": frozen.path,
        "sha256": frozen.sha256,
        "frozen_at": frozen.frozen_at,
        "data_digest": frozen.data_digest,
        "n_fitted": len(frozen.fitted),
        "forecasts": [forecast_json(one) for one in frozen.forecasts],
    }


def describe_check(check: ForecastCheck) -> tuple[str, ...]:
    """The check in sentences, what counts first."""
    frozen = check.frozen
    ahead = sum(one.known_loss is None for one in frozen.forecasts)
    due = ahead - len(check.pending)
    runs = "1 run" if check.n == 1 else f"{check.n} runs"
    unseen = f"forecasts of losses that the frozen law's table lacked ({frozen.frozen_at})"
    said = [
        f"{due} of {ahead} {unseen} have come due, by {runs}: "
        f"{check.coverage:.0%} lie in their 95 % interval, the mean error is {check.mean_abs_rel_error:.2%}, the largest "
        f"{check.max_abs_rel_error:.2%}. That no one knew those losses then, only the hash noted at that time can show."
        if check.n
        else f"None of {ahead} {unseen} has a finished run yet."
    ]
    if check.n_known:
        said.append(
            f"{check.n_known} held-out runs had finished before: {check.coverage_known:.0%} lie in their interval, which is no "
            "test of foresight."
        )
    said += [
        f"{row.name}: predicted {row.predicted:.4f} ({row.ci95.lo:.4f} to {row.ci95.hi:.4f}), measured {row.measured:.4f}, "
        f"{row.rel_error:+.2%}, {'inside' if row.inside else 'outside'}"
        + ("" if row.before_the_fact else "; known before")
        for row in check.rows
    ]
    if check.fitted_runs:
        said.append(f"{len(check.fitted_runs)} runs of {check.source} were in the law's data and don't count.")
    if check.not_forecast:
        some = ", ".join(check.not_forecast[:5]) + (" ..." if len(check.not_forecast) > 5 else "")
        said.append(f"{len(check.not_forecast)} finished runs were never forecast: {some}.")
    said += [f"warning: {words}" for words in check.changed]
    return tuple(said)


def check_json(check: ForecastCheck) -> dict[str, Any]:
    """The check as JSON values."""
    return {
        "frozen": {
            "path": check.frozen.path,
            "sha256": check.frozen.sha256,
            "frozen_at": check.frozen.frozen_at,
            "law": check.frozen.law,
            "data_digest": check.frozen.data_digest,
        },
        "source": check.source,
        "n": check.n,
        "mean_abs_rel_error": finite(check.mean_abs_rel_error),
        "max_abs_rel_error": finite(check.max_abs_rel_error),
        "coverage": finite(check.coverage),
        "held_out": {"n": check.n_known, "coverage": finite(check.coverage_known)},
        "forecasts": [
            {
                "run_id": row.run_id,
                "name": row.name,
                "kind": row.kind,
                "n_params": row.n_params,
                "n_tokens": row.n_tokens,
                "predicted": row.predicted,
                "ci95": interval_json(row.ci95),
                "measured": row.measured,
                "rel_error": row.rel_error,
                "inside": row.inside,
                "before_the_fact": row.before_the_fact,
            }
            for row in check.rows
        ],
        "pending": list(check.pending),
        "not_forecast": list(check.not_forecast),
        "fitted_runs": list(check.fitted_runs),
        "changed": list(check.changed),
    }
