"""The JSON document of `isoloss recommend RUNS --json`: numbers are finite or null."""

from __future__ import annotations

from typing import Any

from analysis.decisions.uncertainty import FACTORS
from analysis.fitting.fit_json import fit_json
from analysis.results import Costs, Family, Optimum, Recommendation, Uncertainty
from analysis.values_json import finite, interval_json, intervals_json


def recommend_json(recommendation: Recommendation) -> dict[str, Any]:
    """A recommendation as JSON values. Regret, limits and family stand with the optimum that they are about."""
    asked, own = recommendation.question, recommendation.lifetime_optimal
    bands = {
        "within_1pct": interval_json(recommendation.within_1pct),
        "within_5pct": interval_json(recommendation.within_5pct),
        "loss_forecast_ci95": interval_json(recommendation.loss_forecast),
    }
    about = {
        **bands,
        "saved": finite(recommendation.saved),
        "regret": [
            {
                "factor": regret.factor,
                "demand_tokens": finite(regret.demand_tokens),
                "n_params_best": finite(regret.n_params_best),
                "extra_cost": finite(regret.extra_cost),
                "ci95": interval_json(regret.ci95),
            }
            for regret in recommendation.regret
        ],
    }
    return {
        "question": {
            "kind": asked.kind,
            "value": finite(asked.value),
            "unit": asked.unit,
            "demand_tokens": finite(asked.demand_tokens),
            "prompt_share": finite(asked.prompt_share),
            "unique_tokens": finite(asked.unique_tokens),
            "limits": [
                {
                    "name": limit.name,
                    "value": finite(limit.value),
                    "n_params": interval_json(limit.n_params),
                    "rule": limit.rule,
                    "binds": limit.binds,
                    "effect": limit.effect,
                }
                for limit in recommendation.limits
            ],
            "family": _family(recommendation.family),
        },
        "law": fit_json(recommendation.fit, extrapolation=recommendation.extrapolation),
        "costs": _costs(recommendation.costs, recommendation.recommended),
        "training_optimal": _optimum(recommendation.training_optimal) | ({} if own is not None else bands),
        "lifetime_optimal": None if own is None else _optimum(own) | about,
        "break_even": [
            {
                "small": finite(pair.small),
                "large": finite(pair.large),
                "demand_tokens": finite(pair.demand_tokens),
                "ci95": interval_json(pair.ci95),
            }
            for pair in recommendation.break_even
        ],
        "downstream": [
            {
                "target": task.target,
                "loss": finite(task.loss),
                "value": finite(task.value),
                "ci95": interval_json(task.ci95),
                "fitted_losses": interval_json(task.fitted_losses),
                "outside_fitted_range": task.outside,
                "absent": task.absent,
            }
            for task in recommendation.tasks
        ],
        "uncertainty": _uncertainty(recommendation.uncertainty),
        "outside_fitted_range": list(recommendation.outside_fitted_range),
        "warnings": list(recommendation.warnings),
    }


def _optimum(optimum: Optimum) -> dict[str, Any]:
    return {
        "n_params": finite(optimum.n_params),
        "tokens": finite(optimum.n_tokens),
        "loss": finite(optimum.loss),
        "cost": finite(optimum.cost),
        "unit": optimum.unit,
        "ci95": _renamed(intervals_json(optimum.ci95)),
        "outside_fitted_range": list(optimum.outside_fitted_range),
    }


def _costs(costs: Costs, recommended: Optimum) -> dict[str, Any]:
    """Dollars a FLOP follow from those a token only where FLOPs were counted; `serve_usd_per_token` is of the recommended N."""
    dollars = costs.unit == "USD"
    served = float(costs.serve(recommended.n_params))
    phases = {
        name: None if cost is None else finite(float(cost(recommended.n_params)))
        for name, cost in (("prompt_per_token", costs.prompt), ("output_per_token", costs.output))
    }
    return {
        "source": costs.source,
        "train_usd_per_flop": finite(costs.train_usd_per_flop),
        "serve_usd_per_token": finite(served) if dollars else None,
        "fit_error": finite(max(costs.train.max_rel_error, costs.serve.max_rel_error)),
        "unit": costs.unit,
        "train_per_token": finite(float(costs.train(recommended.n_params))),
        "serve_per_token": finite(served),
        **phases,
        "used": {name: finite(value) for name, value in costs.used.items()},
        "rules": {"train": costs.train.rule, "serve": costs.serve.rule},
    }


def _family(family: Family | None) -> dict[str, Any] | None:
    if family is None:
        return None
    return {
        "budget": finite(family.budget),
        "unit": family.unit,
        "cost_unit": family.cost_unit,
        "weighted_loss": finite(family.weighted_loss),
        "alone_loss": finite(family.alone_loss),
        "rule": family.rule,
        "members": [
            {
                "n_params": finite(member.n_params),
                "demand_share": finite(member.demand_share),
                "tokens": finite(member.n_tokens),
                "loss": finite(member.loss),
                "train_cost": finite(member.train_cost),
                "serve_cost": finite(member.serve_cost),
                "ci95": None
                if member.ci95 is None
                else {"tokens": interval_json(member.ci95["n_tokens"]), "loss": interval_json(member.ci95["loss"])},
                "outside_fitted_range": list(member.outside_fitted_range),
            }
            for member in family.members
        ],
    }


def _uncertainty(uncertainty: Uncertainty | None) -> dict[str, Any]:
    """Each factor's sd of ln N, null where it could not be varied; then the joint interval and every choice tried."""
    if uncertainty is None:
        return dict.fromkeys(FACTORS)
    return {
        **{part.factor: finite(part.sd_log_n) for part in uncertainty.contributions},
        "of": f"sd of ln N ({uncertainty.counting}) of {uncertainty.decision}",
        "preferred_law": None if uncertainty.preferred is None else uncertainty.preferred.choice,
        "joint_sd": finite(uncertainty.sd_log_n),
        "joint_ci95": _renamed(intervals_json(uncertainty.joint)),
        "reasons": {part.factor: part.reason for part in uncertainty.contributions},
        "choices": [
            {
                "factor": choice.factor,
                "choice": choice.choice,
                "used": choice.used,
                "joined": choice.joined,
                "reason": choice.reason,
                "n_params": finite(choice.n_params),
                "tokens": finite(choice.n_tokens),
                "loss": finite(choice.loss),
                "cost": finite(choice.cost),
                "ci95": _renamed(intervals_json(choice.ci95)),
            }
            for choice in uncertainty.choices
        ],
    }


def _renamed(ci95: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if ci95 is None else {"tokens" if name == "n_tokens" else name: pair for name, pair in ci95.items()}
