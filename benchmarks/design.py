"""Condition numbers of sound and unsound designs under every law: `python -m benchmarks.design`.

Each law states the number past which a design can't identify it (`Law.max_condition`). This prints what those bounds were
chosen by: the design's own number, the range that the number takes at fitted optima over draws of 1 % noise, and whether the
design is accepted. One JSON document; half a minute on one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from analysis.fitting.design import design_condition
from analysis.fitting.fit import fit
from analysis.laws import get_law, law_names
from analysis.laws.base import Array, Law
from analysis.laws.repetition import effective_tokens
from analysis.runs.table import RunTable, make_frame
from benchmarks.truth import BESIROGLU as TRUTH
from llama.errors import UserError

DRAWS = 20
NOISE = 0.01

#: By the factor that sizes or ratios span.
SOUND = {4.0: "yes", 3.0: "hardly", 2.0: "no", 1.2: "no"}


def grid(sizes: int, size_span: float, ratios: int, ratio_span: float, jitter: float = 0.0) -> tuple[Array, Array]:
    """N and D of `sizes` from 1e8 parameters up, each at `ratios` from 5 tokens a parameter up."""
    n = np.repeat(1e8 * np.geomspace(1, size_span, sizes), ratios)
    d = n * np.tile(np.geomspace(5, 5 * ratio_span, ratios), sizes)
    return n, d * np.exp(jitter * np.random.default_rng(0).standard_normal(len(d)))


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    """Budgets from 1e18 to 1e20 FLOPs, sizes over a factor of 10 around 20 tokens a parameter."""
    n = np.array([np.sqrt(c / 120) * f for c in np.geomspace(1e18, 1e20, budgets) for f in np.geomspace(0.3, 3, sizes)])
    return n, np.repeat(np.geomspace(1e18, 1e20, budgets), sizes) / (6 * n)


def designs() -> Iterator[tuple[str, str, Array, Array]]:
    """Name, whether it is sound (yes, hardly, no), N, D."""
    yield "8 sizes over 300, 6 ratios over 100", "yes", *grid(8, 300, 6, 100)
    yield "5 sizes over 30, 4 ratios over 30", "yes", *grid(5, 30, 4, 30)
    yield "3 sizes over 30, 4 ratios over 30", "yes", *grid(3, 30, 4, 30)
    yield "4 sizes over 8, 3 ratios over 8", "yes", *grid(4, 8, 3, 8)
    yield "4 budgets of 5 sizes (isoFLOP)", "yes", *isoflop(4, 5)
    for span in (4.0, 3.0, 2.0, 1.2):
        yield f"4 sizes over {span:g}, 5 ratios over 30", SOUND[span], *grid(4, span, 5, 30)
    for span in (4.0, 3.0, 2.0):
        yield f"6 sizes over 30, 4 ratios over {span:g}", SOUND[span], *grid(6, 30, 4, span)
    yield "2 sizes over 10, 8 ratios over 30", "no", *grid(2, 10, 8, 30)
    for jitter in (0.05, 0.2):
        yield f"40 sizes over 100, one ratio with {jitter:.0%} jitter", "no", *grid(40, 100, 1, 1, jitter)


def measure(law: Law, n_params_n: Array, n_tokens_n: Array) -> dict[str, object]:
    """The design's number, the optima's, and the verdict of `fit`."""
    unique = None
    if law.uses_unique_tokens:
        # Every run up to the middle of the design's tokens is fresh; longer ones repeat that much.
        unique = np.minimum(n_tokens_n, float(np.exp(np.log(n_tokens_n).mean())))
    rng = np.random.default_rng(0)
    worth = n_tokens_n if unique is None else effective_tokens(n_tokens_n, unique)
    loss = TRUTH["E"] + TRUTH["A"] * n_params_n ** -TRUTH["alpha"] + TRUTH["B"] * worth ** -TRUTH["beta"]
    verdict, at_optima = "accepted", []
    for _ in range(DRAWS):
        noisy = loss * np.exp(NOISE * rng.standard_normal(len(loss)))
        rows = [
            {
                "run_id": str(i),
                "n_params": n,
                "n_tokens": d,
                "loss": y,
                "unique_tokens": None if unique is None else unique[i],
            }
            for i, (n, d, y) in enumerate(zip(n_params_n, n_tokens_n, noisy, strict=True))
        ]
        try:
            found = fit(RunTable(source="design", frame=make_frame(rows)), law=law.name, bootstrap=0)
        except UserError as error:
            verdict = str(error)
            break
        at_optima.append(found.convergence.condition_number)
    return {
        "condition_number": float(f"{design_condition(law, n_params_n, n_tokens_n, unique):.3g}"),
        "at_optima": [float(f"{value:.3g}") for value in (min(at_optima), max(at_optima))] if at_optima else None,
        "verdict": verdict,
    }


def main() -> None:
    document = {
        name: {
            "max_condition": get_law(name).max_condition,
            "designs": [
                {"design": title, "sound": sound, **measure(get_law(name), n, d)} for title, sound, n, d in designs()
            ],
        }
        for name in law_names()
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
