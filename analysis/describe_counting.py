"""A change of counting rule in words and as JSON: what it does to a law, and what 6 N D does to compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.results import ConvertedLaw, FlopsRule
from analysis.values_json import finite, intervals_json
from analysis.words import count
from analysis.words import flops as say_flops

#: FLOPs within this of 6 N D are 6 N D.
SAME_FLOPS = 1e-3


def describe_conversion(told: ConvertedLaw) -> tuple[str, ...]:
    """A law in another count, in sentences: the exponent first."""
    said = [
        f"N_opt goes as C^{told.exponents_before.n_opt:.3f} counting {told.from_rule}, and as C^{told.exponents.n_opt:.3f} "
        f"when the same law is told in {told.to_rule}; its losses at the {told.n_runs} fitted runs then differ by up to "
        f"{told.max_loss_error:.2%} (rms {told.rms_loss_error:.2%}).",
        f"Fitted anew in {told.to_rule}, the exponent is {told.refitted.n_opt:.3f}."
        if told.refitted is not None
        else f"It can't be fitted anew in {told.to_rule}: {told.refused}",
    ]
    if told.max_count_error > 0:
        said.append(
            f"Some runs lack {told.to_rule}; what the other sizes say stands in, to within {told.max_count_error:.2%}."
        )
    return tuple(said)


def conversion_json(told: ConvertedLaw) -> dict[str, Any]:
    def exponents(n_opt: float, d_opt: float) -> dict[str, float | None]:
        return {"n_opt": finite(n_opt), "d_opt": finite(d_opt)}

    return {
        "law": told.law,
        "from": told.from_rule,
        "to": told.to_rule,
        "params": {name: finite(value) for name, value in told.params.items()},
        "exponents": exponents(told.exponents.n_opt, told.exponents.d_opt),
        "exponents_before": {
            **exponents(told.exponents_before.n_opt, told.exponents_before.d_opt),
            "ci95": intervals_json(told.exponents_before.ci95),
        },
        "refitted": None if told.refitted is None else exponents(told.refitted.n_opt, told.refitted.d_opt),
        "refused": told.refused,
        "max_loss_error": finite(told.max_loss_error),
        "rms_loss_error": finite(told.rms_loss_error),
        "max_count_error": finite(told.max_count_error),
        "n_runs": told.n_runs,
    }


def describe_flops_rule(change: FlopsRule) -> tuple[str, ...]:
    """Plain 6 N D against the table's own FLOPs, in sentences."""
    ratio = change.exact_over_6nd_G
    if np.abs(ratio - 1).max() < SAME_FLOPS:
        return ("The table's own FLOPs are 6 N D.",)
    low, high = int(np.argmin(ratio)), int(np.argmax(ratio))
    return (
        f"The table's own FLOPs are {ratio[low]:.3g} to {ratio[high]:.3g} times 6 N D (N is {change.counting}; at "
        f"{count(float(change.sizes_G[low]))} and {count(float(change.sizes_G[high]))} parameters).",
        *(
            f"At {say_flops(one.flops)} N_opt is {count(one.n_opt_exact)} by the table's count and {count(one.n_opt_6nd)} by "
            f"6 N D ({one.n_opt_6nd / one.n_opt_exact - 1:+.1%})."
            for one in change.changes
        ),
    )


def flops_rule_json(change: FlopsRule) -> dict[str, Any]:
    return {
        "counting": change.counting,
        "rule": change.rule,
        "sizes": [
            {"n_params": float(n), "exact_over_6nd": finite(float(ratio))}
            for n, ratio in zip(change.sizes_G, change.exact_over_6nd_G, strict=True)
        ],
        "optima": [
            {
                "flops": one.flops,
                "n_opt_6nd": finite(one.n_opt_6nd),
                "n_opt_exact": finite(one.n_opt_exact),
                "d_opt_6nd": finite(one.d_opt_6nd),
                "d_opt_exact": finite(one.d_opt_exact),
            }
            for one in change.changes
        ],
    }
