"""How long reading runs takes: `python -m benchmarks.reading [--runs 10000] [--points 200]` prints one JSON document.

The same made runs are written as a sweep's folders, a CSV, a Parquet and an MLflow SQLite store, and each is read in a
process of its own: wall and CPU seconds of the read alone, after imports, and the process's peak memory, imports included.
Nothing is trained; the losses are those of a made law.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions
from benchmarks.truth import PILOT
from llama.accounting import training_flops_per_token
from llama.config import RunConfig
from llama.metric_names import FLOPS, TAG_OUTCOME, TOKENS_PER_SECOND, TRAIN_LOSS, TRAINING_SECONDS, VAL_LOSS
from llama.records import CONFIG, DONE, JOURNAL, Done, JournalPoint, journal_line, write_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun
from sweeps.designs.design import make_design
from sweeps.designs.numerics import resolve_numerics
from sweeps.designs.run_configs import CorpusFacts
from sweeps.designs.spec import load_sweep

NAME = "made"
START_MS = 1_700_000_000_000
#: What is read, and from which of the sources that `_write` makes.
READS = {
    "sweep": "runs of a sweep's folders",
    "sweep_curves": "loss curves of a sweep's folders",
    "csv": "runs of a CSV",
    "parquet": "runs of a Parquet",
    "mlflow": "runs of an MLflow SQLite store",
    "mlflow_curves": "loss curves of an MLflow SQLite store",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=200, help="points of each run's journal")
    parser.add_argument("--read", choices=READS, help="read one source that was written to --folder before")
    parser.add_argument(
        "--folder", type=Path, help="where the sources are written, and left (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(_read(arguments.read, arguments.folder)))
        return
    on = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "mlflow.db").exists():
            _write(folder, arguments.runs, arguments.points)
        reads = {}
        for name, about in READS.items():
            command = [sys.executable, "-m", "benchmarks.reading", "--read", name, "--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            reads[name] = {"about": about, **json.loads(done.stdout)}
    document = {
        "benchmark": "reading",
        "machine": on,
        "versions": {
            **versions("numpy", "pandas", "pyarrow", "pydantic", "mlflow", "sqlalchemy"),
            "sqlite": sqlite3.sqlite_version,
        },
        "runs": arguments.runs,
        "points_a_run": arguments.points,
        "reads": reads,
    }
    print(json.dumps(document, indent=1))


def _read(name: str, folder: Path) -> dict[str, Any]:
    """Seconds, memory and what was found."""
    from analysis.runs.load import load_curves, load_runs

    if name.startswith("mlflow"):
        import mlflow.tracking  # noqa: F401 -- two seconds of import are no reading
        from mlflow.store.tracking import sqlalchemy_store  # noqa: F401
    sweep, uri = folder / "sweeps" / NAME, f"sqlite:///{folder / 'mlflow.db'}"
    read: dict[str, Callable[[], Any]] = {
        "sweep": lambda: load_runs(sweep),
        "sweep_curves": lambda: load_curves(sweep),
        "csv": lambda: load_runs(folder / "runs.csv"),
        "parquet": lambda: load_runs(folder / "runs.parquet"),
        "mlflow": lambda: load_runs(uri, experiment=NAME),
        "mlflow_curves": lambda: load_curves(uri, experiment=NAME),
    }
    before = _peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    found = read[name]()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    counts = (
        {"curves": len(found), "points": sum(len(curve.train_loss_G) for curve in found)}
        if isinstance(found, tuple)
        else {"runs": len(found.usable)}
    )
    return {
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_memory_mb": round(_peak_mb()),
        "of_which_imports_mb": round(before),
        **counts,
    }


def _peak_mb() -> float:
    """The most memory this process has held. Linux's getrusage would count what the parent held when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _write(folder: Path, runs: int, points: int) -> None:
    made = list(_make(runs))
    _write_sweep(folder, made, points)
    _write_mlflow(folder / "mlflow.db", made, points)
    from analysis.runs.load import load_runs

    frame = load_runs(folder / "sweeps" / NAME).frame
    frame.to_csv(folder / "runs.csv", index=False)
    frame.to_parquet(folder / "runs.parquet", index=False)


def _make(runs: int) -> Iterator[tuple[str, RunConfig, Done]]:
    """Key, config and end of each run: the quickstart's shapes in turn, each run with a length and a seed of its own."""
    with as_file(files("sweeps") / "studies" / "quickstart.yaml") as path:
        spec = load_sweep(path)
    domains = {"code": 10_000_000, "prose": 5_000_000}
    corpus = CorpusFacts(digest="c" * 64, vocab_size=512, train_tokens=domains, validation_tokens=domains)
    design = make_design(spec, corpus, resolve_numerics(spec, "cpu", has_bf16_tiles=False))
    shapes = {run.config.model.d_model: run.config for run in design.runs if run.config.tokens is not None}
    for number, shape in zip(range(runs), cycle(shapes.values())):
        tokens = shape.batch_tokens * (4000 + 14 * number)
        config = shape.model_copy(update={"tokens": tokens, "seed": number, "parent": None, "fork_step": None})
        assert config.steps is not None
        flops = float(tokens * training_flops_per_token(config.model))
        metrics: dict[str, float | None] = {VAL_LOSS: _loss(flops / tokens / 6, tokens)}
        done = Done(
            outcome="finished",
            reason=None,
            step=config.steps,
            tokens=tokens,
            flops=flops,
            metrics=metrics,
            training_seconds=100.0,
        )
        yield f"{number:016x}", config, done


def _loss(n_params: float, n_tokens: float) -> float:
    law = PILOT
    return float(law["E"] + law["A"] * n_params ** -law["alpha"] + law["B"] * n_tokens ** -law["beta"])


def _points(config: RunConfig, points: int) -> Iterator[JournalPoint]:
    assert config.tokens is not None
    n_params = training_flops_per_token(config.model) / 6
    for number in range(1, points + 1):
        tokens = config.tokens * number // points
        metrics: dict[str, float | None] = {
            TRAIN_LOSS: _loss(n_params, tokens),
            TOKENS_PER_SECOND: 1e5 + number,
            FLOPS: 6.0 * n_params * tokens,
        }
        if number == points:
            metrics[VAL_LOSS] = _loss(n_params, tokens)
        yield JournalPoint(
            step=tokens // config.batch_tokens, tokens=tokens, unix_ms=START_MS + number, metrics=metrics
        )


def _write_sweep(folder: Path, made: list[tuple[str, RunConfig, Done]], points: int) -> None:
    for key, config, done in made:
        run_folder = folder / "runs" / key
        run_folder.mkdir(parents=True)
        write_record(run_folder / CONFIG, config, durable=False)
        write_record(run_folder / DONE, done, durable=False)
        (run_folder / JOURNAL).write_text("".join(map(journal_line, _points(config, points))), encoding="utf-8")
    index = SweepIndex(
        sweep=NAME,
        sweep_id="0" * 12,
        corpus_folder="corpora/made",
        spec_folder=".",
        runs=[_part(key) for key, _, _ in made],
    )
    (folder / "sweeps" / NAME).mkdir(parents=True)
    write_record(folder / "sweeps" / NAME / SWEEP_INDEX, index)


def _part(key: str) -> SweepRun:
    return SweepRun(key=key, name=f"run-{int(key, 16)}", trunk=None, is_trunk=False, flops_budget=None, held_out=False)


def _write_mlflow(path: Path, made: list[tuple[str, RunConfig, Done]], points: int) -> None:
    """MLflow makes its own tables; rows as the mirror would send them go in by SQL, which takes a minute and not a day."""
    from mlflow.tracking import MlflowClient

    from sweeps.tracking.names import run_params, run_tags

    experiment = MlflowClient(f"sqlite:///{path}").create_experiment(NAME)
    index = SweepIndex(sweep=NAME, sweep_id="0" * 12, corpus_folder="", spec_folder="", runs=[])

    def history() -> Iterator[tuple[Any, ...]]:
        for key, config, done in made:
            for point in _points(config, points):
                for name, value in point.metrics.items():
                    yield key, name, value, point.unix_ms, point.tokens, False
            yield key, TRAINING_SECONDS, done.training_seconds, START_MS + points, 0, False

    with sqlite3.connect(path) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.executemany(
            "INSERT INTO runs (run_uuid, name, user_id, artifact_uri, source_type, status, start_time, end_time,"
            " lifecycle_stage, experiment_id) VALUES (?, ?, 'made', '', 'LOCAL', 'FINISHED', ?, ?, 'active', ?)",
            ((key, f"run-{int(key, 16)}", START_MS + int(key, 16), START_MS, int(experiment)) for key, _, _ in made),
        )
        for table, rows in (
            ("params", ((key, *item) for key, config, _ in made for item in run_params(config).items())),
            (
                "tags",
                (
                    (key, *item)
                    for key, config, _ in made
                    for item in {
                        **run_tags(_part(key), index, config),
                        TAG_OUTCOME: "finished",
                        "mlflow.runName": f"run-{int(key, 16)}",
                    }.items()
                ),
            ),
        ):
            database.executemany(f"INSERT INTO {table} (run_uuid, key, value) VALUES (?, ?, ?)", rows)
        insert = "(run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(f"INSERT INTO metrics {insert}", history())
        database.execute(
            "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)"
            " SELECT run_uuid, key, value, timestamp, max(step), is_nan FROM metrics GROUP BY run_uuid, key"
        )


if __name__ == "__main__":
    main()
