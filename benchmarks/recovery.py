"""Do the intervals cover? `python -m benchmarks.recovery --out FILE.json` simulates studies of known laws and counts.

Each study draws noise on a design (`benchmarks.recovery_designs`), fits the law with its bootstrap, and asks whether the 95 %
intervals of N*, D* and L* at ten times the largest training compute in the table hold the truth. Ten minutes on one core; each
study is a line in FILE.jsonl, appended when it is done, so Ctrl-C loses one study and the same command goes on, as long as the
estimator's code is the same. At the end one JSON document, on stdout and in FILE.json, gives coverage by design and quantity.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta as beta_distribution

from analysis.fitting.fit import fit
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.results import Fit
from benchmarks.machine import machine, versions
from benchmarks.recovery_designs import DESIGNS, LAW, Study, simulate
from llama.errors import UserError

#: How far beyond the largest training compute in the table the law is asked.
BEYOND = 10.0
#: Of training, for N* and D*.
FLOPS_PER_PARAMETER_TOKEN = 6.0
QUANTITIES = ("n_opt", "d_opt", "loss")
#: Studies of each design: noise drawn anew each time, and of `random` a new design and law as well. The numbers start where
#: nobody looked while the intervals were being made.
FIRST_REPLICATE, REPLICATES = 10_000, 500
#: Designs whose noise falls with size, asked a second time with weights by the noise between seeds: the same draws.
WEIGHTED = {f"{design}_weighted": design for design in ("noise_floor", "floor_6")}
CASES = (*DESIGNS, *WEIGHTED)
#: What decides a study: the estimator, the table it reads and the designs. Words and JSON do not.
ROOT = Path(__file__).parents[1]
CODE = (
    "analysis/fitting/*.py",
    "analysis/laws/*.py",
    "analysis/intervals.py",
    "analysis/runs/table.py",
    "benchmarks/recovery_designs.py",
    "benchmarks/truth.py",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("recovery.json"), help="the document; its lines lie beside it")
    parser.add_argument("--designs", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument("--replicates", type=int, default=REPLICATES, help=f"studies of each design, {REPLICATES}")
    parser.add_argument(
        "--first-replicate", type=int, default=FIRST_REPLICATE, help=f"number of the first, {FIRST_REPLICATE}"
    )
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--objective", default="huber_log")
    arguments = parser.parse_args()
    settings = {
        "law": LAW,
        "objective": arguments.objective,
        "bootstrap": arguments.bootstrap,
        "beyond": BEYOND,
        "estimator": estimator_digest(),
    }
    # Round by round, so that a part of the run is a smaller run.
    numbers = range(arguments.first_replicate, arguments.first_replicate + arguments.replicates)
    wanted = [(design, number) for number in numbers for design in arguments.designs]
    on = machine()
    try:
        lines = list(run(wanted, arguments.out.with_suffix(".jsonl"), settings))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    document = {
        "benchmark": "recovery",
        **settings,
        "replicates": [numbers.start, numbers.stop - 1],
        "cpu_seconds": round(sum(line["cpu_seconds"] for line in lines)),
        "machine": on,
        "versions": versions("numpy", "scipy"),
        "designs": {design: summarise([x for x in lines if x["design"] == design]) for design in arguments.designs},
        "fixed": summarise([line for line in lines if line["design"] in DESIGNS and line["design"] != "random"]),
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def run(wanted: list[tuple[str, int]], path: Path, settings: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
    """The lines of `wanted`, in order: those that `path` holds, and the others worked out and appended to it.

    Raises:
        UserError: the file's studies were run with other settings.
    """
    done = _read(path, settings)
    missing = sum(key not in done for key in wanted)
    started, made = time.monotonic(), 0
    with path.open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(json.dumps({"settings": settings}) + "\n")
        for design, replicate in wanted:
            if (line := done.get((design, replicate))) is None:
                line = study_line(design, replicate, settings["objective"], settings["bootstrap"])
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                made += 1
                left = (time.monotonic() - started) / made * (missing - made)
                print(f"\r{made} of {missing} studies, {left / 60:.0f} min left ({design}) ", end="", file=sys.stderr)
            yield line
    if made:
        print(file=sys.stderr)


def estimator_digest() -> str:
    """Of the code that decides a study, as it is parsed: comments, docstrings and layout don't count."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in ROOT.glob(pattern)}):
        if path.stem.startswith("describe_") or path.stem.endswith("_json"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        digest.update(f"{path.relative_to(ROOT).as_posix()} {ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:12]


def _read(path: Path, settings: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    done: dict[tuple[str, int], dict[str, Any]] = {}
    if not path.exists():
        return done
    text = path.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:  # a kill in the middle of a write: what isn't a whole line goes
        path.write_text(whole + "\n" * bool(whole), encoding="utf-8")
    for line in map(json.loads, whole.splitlines()):
        if "settings" not in line:
            done[line["design"], line["replicate"]] = line
        elif line["settings"] != settings:
            raise UserError(
                f"{path} holds studies run with {line['settings']}, and {settings} was asked for; choose another --out"
            )
    return done


def study_line(design: str, replicate: int, objective: str, bootstrap: int) -> dict[str, Any]:
    """One simulated study: what was found, and its interval over what is true."""
    weights = "noise" if design in WEIGHTED else "column"
    study, table = simulate(WEIGHTED.get(design, design), replicate)
    started = time.process_time()
    line: dict[str, Any] = {"design": design, "replicate": replicate}
    try:
        found = fit(table, law=LAW, objective=objective, weights=weights, bootstrap=bootstrap, seed=replicate)
    except UserError as error:
        return {**line, "refused": str(error), "cpu_seconds": round(time.process_time() - started, 3)}
    assert found.resampling is not None
    return {
        **line,
        "method": found.resampling.method,
        "groups": found.resampling.groups,
        "runs": found.n_runs,
        **compare(study, found),
        "cpu_seconds": round(time.process_time() - started, 3),
    }


def compare(study: Study, found: Fit) -> dict[str, list[float]]:
    """Of each quantity (estimate, lower, upper) over the truth, at ten times the largest compute; None where infinite."""
    law = get_law(found.law)
    flops = BEYOND * FLOPS_PER_PARAMETER_TOKEN * float((study.n_params * study.n_tokens).max())

    def optimum(params_KP: np.ndarray) -> dict[str, np.ndarray]:
        n_params, n_tokens = law.compute_optimum(params_KP, flops, FLOPS_PER_PARAMETER_TOKEN)
        loss = law.predict(params_KP, n_params, n_tokens)
        return dict(zip(QUANTITIES, map(np.asarray, (n_params, n_tokens, loss)), strict=True))

    true, estimate = optimum(law.as_vector(study.truth)), optimum(law.as_vector(found.params))
    assert found.draws_KP is not None
    drawn = optimum(found.draws_KP)
    line = {}
    for name in QUANTITIES:
        bounds = interval(drawn[name])
        line[name] = [float(f"{x / float(true[name]):.6g}") for x in (float(estimate[name]), bounds.lo, bounds.hi)]
    return line


def summarise(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Coverage with its binomial interval, misses on either side, width and bias of each quantity."""
    lines = list(lines)
    kept = [line for line in lines if "refused" not in line]
    summary: dict[str, Any] = {"studies": len(kept), "refused": len(lines) - len(kept)}
    if len(kept) < len(lines):
        summary["refusals"] = dict(Counter(line["refused"] for line in lines if "refused" in line))
    if not kept:
        return summary
    summary["methods"] = {m: sum(x["method"] == m for x in kept) for m in sorted({x["method"] for x in kept})}
    for name in QUANTITIES:
        below = sum(line[name][1] > 1 for line in kept)
        above = sum(line[name][2] < 1 for line in kept)
        inside = len(kept) - below - above
        summary[name] = {
            "coverage": round(inside / len(kept), 4),
            "coverage_ci95": [round(x, 4) for x in binomial_interval(inside, len(kept))],
            "truth_below": below,
            "truth_above": above,
            "median_upper_over_lower": round(statistics.median(line[name][2] / line[name][1] for line in kept), 4),
            "median_estimate_over_truth": round(statistics.median(line[name][0] for line in kept), 4),
            "median_relative_error": round(statistics.median(abs(line[name][0] - 1) for line in kept), 4),
        }
    return summary


def binomial_interval(inside: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval (1934)."""
    low = beta_distribution.ppf(0.025, inside, of - inside + 1) if inside else 0.0
    high = beta_distribution.ppf(0.975, inside + 1, of - inside) if inside < of else 1.0
    return float(low), float(high)


if __name__ == "__main__":
    main()
