"""Fitting against its peers: `python -m benchmarks.fit [--runs FILE.csv]` prints one JSON document.

What is measured, on one table of 240 runs: the exact Huber fit, 4,000 bootstraps of it, the same fit by the packages that the
`peers` extra installs, `isoloss fit` and `isoloss recommend` as whole processes, and `isoloss report` on 1,000 runs. Every part
runs in a fresh process with one thread of linear algebra, and its clock (CPU seconds of the process and of its children) starts
after its imports, but for the commands, whose start counts. A peer that is not installed is absent from the figures, with the
reason.

The optimum that each one ends in is judged by one definition: ours, the sum over runs (`analysis.fitting.objective`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, versions
from benchmarks.truth import BESIROGLU as TRUTH

#: Log-residuals of the 240 runs of Besiroglu et al. 2024 about their fit: Student's t, by maximum likelihood.
NOISE_SCALE, NOISE_DEGREES_OF_FREEDOM = 0.004, 2.66
#: And their design: log10 of training FLOPs, ln of tokens a parameter (mean, sd, lowest, highest).
LOG10_FLOPS = (20.0, 0.75, 18.1, 22.1)
LN_RATIO = (np.log(22.0), 1.2, np.log(0.5), np.log(340.0))

#: The targets that figures are held against.
FIT_CPU_SECONDS = 0.05
BOOTSTRAP_CPU_SECONDS = 5.0
TIMES_LESS_THAN_GRID = 1000.0
TIMES_LESS_THAN_LEAST_SQUARES = 2.0
COMMAND_SECONDS, COMMAND_MEGABYTES = 4.0, 500.0
REPORT_SECONDS = 30.0
#: Objectives that agree to this share are one.
SAME_OBJECTIVE = 1e-6

#: One thread for every library that would take more: CPU seconds are compared, and threads of idle cores spin.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
PACKAGES = ("isoloss", "numpy", "scipy", "pandas", "chinchilla", "simple-scaling-laws")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="a CSV of n_params,n_tokens,loss instead of the synthetic table")
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5, help="times that a quick part is measured")
    parser.add_argument("--slices", type=int, default=5, help="starts of chinchilla's grid along each of its five axes")
    parser.add_argument("--report-runs", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.runs is None:
            arguments.runs = write_table(Path(folder) / "synthetic.csv", 240)
            source = "synthetic: Besiroglu et al.'s law and design, seed 0"
        else:
            source = arguments.runs.name
        document: dict[str, Any] = {
            "benchmark": "fit",
            "machine": machine(),
            "versions": versions(*PACKAGES),
            "runs": {
                "source": source,
                "n": len(read_table(arguments.runs)[0]),
                "sha256": hashlib.sha256(arguments.runs.read_bytes()).hexdigest(),
            },
        }
        for part in arguments.only:
            document[part] = measure(part, arguments)
    document["ratios"] = ratios(document)
    document["targets"] = targets(document)
    print(json.dumps(document, indent=1))


def measure(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fit", "--part", part, "--runs", str(arguments.runs.resolve())]
    for name in ("resamples", "repeats", "slices", "report_runs"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(
        command,
        env=os.environ | ONE_THREAD,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_isoloss(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our fit and its bootstrap, by Huber and by least squares."""
    from analysis import fit, load_runs

    table = load_runs(str(arguments.runs))
    # The first fit of a process also imports what it needs.
    fit(table, bootstrap=2)
    figures: dict[str, Any] = {}
    for objective in ("huber_log", "lsq"):
        found = fit(table, objective=objective, bootstrap=0)
        params = dict(found.params)
        figures[objective] = {
            "fit_cpu_seconds": repeat(partial(fit, table, objective=objective, bootstrap=0), arguments.repeats),
            "bootstrap_cpu_seconds": repeat(
                partial(fit, table, objective=objective, bootstrap=arguments.resamples),
                min(3, arguments.repeats),
            ),
            "resamples": arguments.resamples,
            "gradient_norm": found.convergence.gradient_norm,
            "params": params,
            "objectives": objectives(params, arguments.runs),
        }
    return figures


def measure_chinchilla(arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.peers import fit_chinchilla

    return fit_chinchilla(arguments.runs, slices=arguments.slices, clock=cpu_seconds, judge=objectives)


def measure_simple_scaling_laws(arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.peers import fit_simple_scaling_laws

    return fit_simple_scaling_laws(
        arguments.runs,
        resamples=arguments.resamples,
        repeats=min(3, arguments.repeats),
        repeat=repeat,
        judge=objectives,
    )


def measure_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """`isoloss fit` with 1,000 bootstraps, start included."""
    return measure_process(arguments, "fit", "--bootstrap", "1000", "--json")


def measure_recommend(arguments: argparse.Namespace) -> dict[str, Any]:
    """`isoloss recommend` with what objectives, outliers and laws add, start included."""
    return measure_process(arguments, "recommend", "--compute", "1e24", "--demand", "1e13", "--json")


def measure_process(arguments: argparse.Namespace, command: str, *options: str) -> dict[str, Any]:
    measured = [run_isoloss(command, str(arguments.runs), *options) for _ in range(arguments.repeats)]
    return {
        "command": " ".join(["isoloss", command, "RUNS.csv", *options]),
        "wall_seconds": summary([wall for wall, _, _ in measured]),
        "cpu_seconds": summary([cpu for _, cpu, _ in measured]),
        "peak_megabytes": max(peak for _, _, peak in measured),
    }


def measure_report(arguments: argparse.Namespace) -> dict[str, Any]:
    """`isoloss report`: the page, every picture and every table, start included; of a ladder, and of sizes all different."""
    reports = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape, write in (("ladder", write_ladder), ("sizes all different", write_table)):
            table = write(folder / "runs.csv", arguments.report_runs, seed=1)
            out = folder / shape
            wall, cpu, peak = run_isoloss("report", str(table), "--storage", str(folder / "storage"), "--out", str(out))
            files = [path for path in out.rglob("*") if path.is_file()]
            reports[shape] = {
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                "peak_megabytes": peak,
                "files": len(files),
                "megabytes": sum(path.stat().st_size for path in files) / 1e6,
            }
    return {"command": "isoloss report RUNS.csv", "n_runs": arguments.report_runs, "reports": reports}


#: What can be measured, by name, in the document's order.
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "isoloss": measure_isoloss,
    "chinchilla": measure_chinchilla,
    "simple_scaling_laws": measure_simple_scaling_laws,
    "command": measure_command,
    "recommend": measure_recommend,
    "report": measure_report,
}


def run_isoloss(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak resident megabytes of one `isoloss` process."""
    command = [sys.executable, "-c", "from sweeps.command import main; main()", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"isoloss {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6


def ratios(document: dict[str, Any]) -> dict[str, float]:
    """Peers' CPU seconds over ours, medians, of the same run of this benchmark."""
    ours = document.get("isoloss", {})
    if not ours:
        return {}
    huber, lsq = ours["huber_log"], ours["lsq"]
    found = {}
    for name, grid in document.get("chinchilla", {}).get("grids", {}).items():
        found[f"chinchilla's grid ({name}) over our fit"] = grid["cpu_seconds"] / huber["fit_cpu_seconds"]["median"]
    theirs = document.get("simple_scaling_laws", {})
    if "bootstrap_cpu_seconds" in theirs:
        seconds = theirs["bootstrap_cpu_seconds"]["median"]
        found["simple-scaling-laws' least squares over our Huber bootstrap"] = (
            seconds / huber["bootstrap_cpu_seconds"]["median"]
        )
        found["simple-scaling-laws' least squares over our least squares bootstrap"] = (
            seconds / lsq["bootstrap_cpu_seconds"]["median"]
        )
    return found


def targets(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target beside its figure; those whose part was not measured are left out."""
    rows: list[dict[str, Any]] = []

    def at_most(what: str, figure: float, limit: float) -> None:
        rows.append({"what": what, "measured": figure, "at_most": limit, "met": bool(figure <= limit)})

    def at_least(what: str, figure: float, limit: float) -> None:
        rows.append({"what": what, "measured": figure, "at_least": limit, "met": bool(figure >= limit)})

    if "isoloss" in document:
        huber, lsq = document["isoloss"]["huber_log"], document["isoloss"]["lsq"]
        at_most("exact Huber fit, CPU seconds", huber["fit_cpu_seconds"]["median"], FIT_CPU_SECONDS)
        at_most("bootstraps, CPU seconds", huber["bootstrap_cpu_seconds"]["median"], BOOTSTRAP_CPU_SECONDS)
        for name, ratio in document["ratios"].items():
            limit = TIMES_LESS_THAN_GRID if name.startswith("chinchilla") else TIMES_LESS_THAN_LEAST_SQUARES
            at_least(name, ratio, limit)
        peers = [
            *document.get("chinchilla", {}).get("grids", {}).values(),
            document.get("simple_scaling_laws", {}),
        ]
        for objective, own in (("huber_log", huber), ("lsq", lsq)):
            reached = [peer["objectives"][objective] for peer in peers if "objectives" in peer]
            if reached:
                over_best = own["objectives"][objective] / min(reached)
                at_most(f"our {objective} over the best of the peers'", over_best, 1 + SAME_OBJECTIVE)
    if "command" in document:
        command = document["command"]
        at_most("isoloss fit, wall seconds", command["wall_seconds"]["median"], COMMAND_SECONDS)
        at_most("isoloss fit, peak megabytes", command["peak_megabytes"], COMMAND_MEGABYTES)
    if "report" in document:
        slowest = max(report["wall_seconds"] for report in document["report"]["reports"].values())
        at_most(f"isoloss report of {document['report']['n_runs']} runs, wall seconds", slowest, REPORT_SECONDS)
    return rows


def objectives(params: dict[str, float], runs: Path) -> dict[str, float]:
    """What parameters in raw units are worth by our definitions."""
    from analysis.fitting.objective import Objective
    from analysis.laws import get_law

    law = get_law("chinchilla")
    n_params, n_tokens, loss = read_table(runs)
    predicted = law.predict(law.as_vector(params), n_params, n_tokens)
    residuals = {"huber_log": np.log(predicted / loss), "lsq": predicted - loss}
    weight = np.ones_like(loss)
    return {name: float(Objective(name=name).value(residual, weight)) for name, residual in residuals.items()}


def write_table(path: Path, n_runs: int, seed: int = 0) -> Path:
    """Runs drawn from Besiroglu et al.'s law, with the design and the heavy-tailed noise of their table."""
    rng = np.random.default_rng(seed)
    flops = 10 ** clipped_normal(rng, n_runs, *LOG10_FLOPS)
    ratio = np.exp(clipped_normal(rng, n_runs, *LN_RATIO))
    n_params = np.rint(np.sqrt(flops / (6 * ratio)))
    n_tokens = np.rint(flops / (6 * n_params))
    noise = NOISE_SCALE * rng.standard_t(NOISE_DEGREES_OF_FREEDOM, n_runs)
    law = TRUTH["E"] + TRUTH["A"] * n_params ** -TRUTH["alpha"] + TRUTH["B"] * n_tokens ** -TRUTH["beta"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n_params", "n_tokens", "loss"])
        writer.writerows(zip(n_params.tolist(), n_tokens.tolist(), (law * np.exp(noise)).tolist(), strict=True))
    return path


def write_ladder(path: Path, n_runs: int, seed: int = 0) -> Path:
    """Runs of a planned study: five seeds of each size at each of eight declared budgets, sizes about each budget's best."""
    rng = np.random.default_rng(seed)
    ladder = np.rint(np.geomspace(3e7, 3e10, 60))
    budgets, seeds = np.geomspace(6e18, 3e21, 8), 5
    sizes = n_runs // (len(budgets) * seeds)
    rows = []
    for budget in budgets:
        nearest = np.sort(np.argsort(np.abs(np.log(ladder**2 * 6 * np.exp(LN_RATIO[0]) / budget)))[:sizes])
        for n_params in ladder[nearest]:
            n_tokens = float(np.rint(budget / (6 * n_params)))
            law = TRUTH["E"] + TRUTH["A"] * n_params ** -TRUTH["alpha"] + TRUTH["B"] * n_tokens ** -TRUTH["beta"]
            for each in range(seeds):
                loss = law * np.exp(NOISE_SCALE * rng.standard_t(NOISE_DEGREES_OF_FREEDOM))
                rows.append([n_params, n_tokens, loss, budget, f"{n_params:.4g}-seed-{each}", each])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n_params", "n_tokens", "loss", "flops_budget", "group", "seed"])
        writer.writerows(rows)
    return path


def read_table(path: Path) -> tuple[Any, Any, Any]:
    """N, D and loss of the three columns that every contender is given."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    n_params, n_tokens, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("n_params", "n_tokens", "loss")
    )
    return n_params, n_tokens, loss


def clipped_normal(rng: np.random.Generator, size: int, mean: float, sd: float, low: float, high: float) -> Any:
    return np.clip(mean + sd * rng.standard_normal(size), low, high)


def repeat(what: Callable[[], object], times: int) -> dict[str, Any]:
    """CPU seconds of `what`, several times."""
    spent = []
    for _ in range(times):
        started = cpu_seconds()
        what()
        spent.append(cpu_seconds() - started)
    return summary(spent)


def summary(seconds: list[float]) -> dict[str, Any]:
    return {"best": min(seconds), "median": statistics.median(seconds), "repeats": len(seconds)}


def cpu_seconds() -> float:
    """CPU seconds so far of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
