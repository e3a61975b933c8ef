"""The next runs in words, and as a document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.results.next_runs import CandidateRun, NextRuns
from analysis.values_json import finite, interval_json
from analysis.words import brackets, count, flops, seconds

WHAT = {"n": "N*", "d": "D*", "loss": "the loss", "dollars": "the cost"}


def shown(found: NextRuns) -> Callable[[float], str]:
    """How the narrowed quantity is written."""
    if found.narrow in ("n", "d"):
        return count
    return (
        (lambda value: f"{value:.3f}") if found.narrow == "loss" else (lambda value: seconds(value, found.costs.unit))
    )


def describe_next(found: NextRuns) -> list[str]:
    """The decision today, the verdict, and what both rest on; the batch itself is a table."""
    show, what = shown(found), WHAT[found.narrow]
    size, tokens = found.target
    lines = [
        f"Today the law {found.fit.law} of {found.fit.n_runs} runs would train {count(size)} parameters on {count(tokens)} "
        f"tokens; {what} is {show(found.value)}{brackets(found.ci95, show)}.",
        found.stop.words,
        f"{len(found.candidates)} candidates were ranked by the share of the variance of {what} that each takes away for its "
        f"training FLOPs, averaged over {found.resamples} laws: the usual shape and resamples.",
        f"Noise of log loss: {found.noise_rule}.",
    ]
    return lines + [f"- {warning}" for warning in found.warnings]


def cells_yaml(found: NextRuns) -> list[str]:
    """The runs that are worth making, or the batch where none is, to be copied: sizes as the fit counts them, and tokens."""
    batch = found.chosen[: found.stop.worth or len(found.chosen)]
    if not batch:
        return []
    spent = f"the next {f'{len(batch)} runs' if len(batch) > 1 else 'run'}, {flops(batch[-1].spent_flops)}"
    if all(step.run.size for step in batch):
        return [
            f"# {spent}: a part more of the sweep's budgets",
            *(f"# it needs {needs}" for needs in dict.fromkeys(step.run.needs for step in batch) if needs),
            "- cells:",
            *(f"    - {_cell(step.run)}" for step in batch),
        ]
    return [
        f"# {spent}: {found.fit.counting} and tokens",
        *(f"- {{n_params: {step.run.n_params:.0f}, tokens: {step.run.n_tokens:.0f}}}" for step in batch),
    ]


def _cell(run: CandidateRun) -> str:
    seed = "" if run.seed is None else f", seed: {run.seed}"
    return f"{{size: {run.size}, tokens: {run.n_tokens:.0f}{seed}}}"


def next_json(found: NextRuns) -> dict[str, Any]:
    asked, stop = found.question, found.stop
    return {
        "question": {
            "kind": asked.kind,
            "value": finite(asked.value),
            "unit": asked.unit,
            "demand_tokens": finite(asked.demand_tokens),
            "prompt_share": finite(asked.prompt_share),
        },
        "law": {
            "law": found.fit.law,
            "counting": found.fit.counting,
            "n_runs": found.fit.n_runs,
            "params": {name: finite(value) for name, value in found.fit.params.items()},
            "data_digest": found.fit.data_digest,
        },
        "narrow": {
            "quantity": found.narrow,
            "unit": found.unit,
            "value": finite(found.value),
            "ci95": interval_json(found.ci95),
        },
        "chosen_today": {"n_params": finite(found.target[0]), "tokens": finite(found.target[1])},
        "noise": {
            "sd": finite(found.noise.sd),
            "misfit_sd": finite(found.noise.misfit_sd),
            "misfit_length": finite(found.noise.misfit_length),
            "trunk_share": finite(found.noise.trunk_share),
            "rule": found.noise_rule,
        },
        "next": [
            {
                **_candidate(step.run),
                "spent_flops": finite(step.spent_flops),
                "spent_cost": finite(step.spent_cost),
                "variance_left": finite(step.left),
                "ci95_after": interval_json(step.ci95),
                "expected_saving": finite(step.saving),
            }
            for step in found.chosen
        ],
        "stop": {
            "enough": stop.enough,
            "worth_runs": stop.worth,
            "unit": found.costs.unit,
            "target_cost": finite(stop.target_cost),
            "expected_waste": finite(stop.waste),
            "saving_of_all_candidates": finite(stop.saving_of_all),
            "words": stop.words,
        },
        "candidates": [
            _candidate(run) for run in sorted(found.candidates, key=lambda run: run.share / run.flops, reverse=True)
        ],
        "resamples": found.resamples,
        "warnings": list(found.warnings),
    }


def _candidate(run: CandidateRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "size": run.size or None,
        "seed": run.seed,
        "needs": run.needs or None,
        "n_params": finite(run.n_params),
        "tokens": finite(run.n_tokens),
        "flops": finite(run.flops),
        "cost": finite(run.cost),
        "variance_share": finite(run.share),
        "variance_share_per_flop": finite(run.share / run.flops),
    }
