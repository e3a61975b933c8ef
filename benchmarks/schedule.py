"""What the supervisor costs and how well it packs: `python -m benchmarks.schedule` prints one JSON document.

Parts, each in a process of its own, all unless some are named:

sweep        a real sweep through `isoloss launch` on this machine's cores: its makespan against the lower bound, the larger of
             all attempts' seconds over the cores and the longest path through them
simulation   10,000 runs of mixed sizes on 1,024 GPUs, by the supervisor that launches run: seconds to design and to simulate,
             makespan against the lower bound, memory of the process with all that a launch imports
overhead     segments that do nothing on a Ray of two cores, and as many seconds a trial of Ray Tune on the same Ray
restart      a launch that finds 1,000 finished run folders
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import machine, versions
from benchmarks.noop import nothing
from cluster.executor import Node
from cluster.graph import Graph
from cluster.task import Resources, Task
from sweeps.tracking.code import code_tags

#: What each width of the simulated sweep takes: shares of a GPU, whole ones, a node of eight, two such nodes.
SIMULATED = {
    64: Resources(cpus=2, gpus=0.125),
    128: Resources(cpus=2, gpus=0.25),
    256: Resources(cpus=4, gpus=0.5),
    512: Resources(cpus=8, gpus=1),
    768: Resources(cpus=8, gpus=1),
    1024: Resources(cpus=8, gpus=1),
    1536: Resources(cpus=16, gpus=2),
    2048: Resources(cpus=32, gpus=4),
    3072: Resources(cpus=64, gpus=8),
    4096: Resources(cpus=64, gpus=8, members=2),
}
#: Training FLOPs a second of a GPU, for the simulation: two fifths of an H100's dense bfloat16 peak.
SIMULATED_FLOPS_PER_SECOND = 4e14
WORDS = ["loss", "tokens", "model", "curve", "small", "large", "serve", "train", "long", "river", "stone", "light"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--budget-scale", type=float, default=1.0, help="of the quickstart's budgets, in `sweep`")
    parser.add_argument("--runs", type=int, default=10_000, help="in `simulation`")
    parser.add_argument("--segments", type=int, default=1000, help="in `overhead`")
    parser.add_argument("--trials", type=int, default=30, help="of Ray Tune, in `overhead`")
    parser.add_argument("--folders", type=int, default=1000, help="in `restart`")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(PARTS[arguments.parts[0]](arguments)))
        return
    document: dict[str, Any] = {
        "benchmark": "schedule",
        "machine": machine(),
        "versions": versions("ray", "mlflow"),
        "commit": code_tags().get("code.commit"),
    }
    for part in arguments.parts or PARTS:
        document[part] = run_alone(part)
    print(json.dumps(document, indent=1))


def run_alone(part: str) -> dict[str, Any]:
    options = [option for option in sys.argv[1:] if option not in PARTS]
    command = [sys.executable, "-m", "benchmarks.schedule", part, "--alone", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def time_sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    """The quickstart's sweep without serving costs, by the attempts that its launch wrote down."""
    from sweeps.attempts import read_attempts
    from sweeps.hardware.place import this_place
    from sweeps.planning.prepare import prepare
    from sweeps.storage import Storage

    spec = yaml.safe_load((files("sweeps") / "studies" / "quickstart.yaml").read_text())
    spec["inference"] = False
    spec["budgets"]["flops"] = [float(budget) * arguments.budget_scale for budget in spec["budgets"]["flops"]]
    spec["budgets"]["min_tokens_per_parameter"] *= arguments.budget_scale
    spec["recipe"]["reference_budget"] = float(spec["recipe"]["reference_budget"]) * arguments.budget_scale
    spec["seeds"] = {"base": [0]}
    with tempfile.TemporaryDirectory() as folder:
        path, storage = Path(folder) / "quickstart.yaml", Storage(Path(folder) / "storage")
        path.write_text(yaml.safe_dump(spec))
        launch(path, storage.root)
        place = this_place()
        segments = prepare(str(path), storage, place, say=lambda line: None).design.segments
        attempts = {
            f"{key}@{attempt.until_step}": attempt
            for key in {segment.run_key for segment in segments}
            for attempt in read_attempts(storage.run(key))
        }
    seconds = {id: (attempt.ended_unix_ms - attempt.began_unix_ms) / 1000 for id, attempt in attempts.items()}
    trained = {id: attempt.training_seconds or 0.0 for id, attempt in attempts.items()}
    needs = {segment.id: segment.needs for segment in segments}
    begun = min(attempt.began_unix_ms for attempt in attempts.values())
    ended = max(attempt.ended_unix_ms for attempt in attempts.values())
    makespan = (ended - begun) / 1000
    bound = lower_bound(tasks_of(seconds, needs), place.nodes)
    return {
        "cores": place.cpus,
        "segments": len(segments),
        "makespan_seconds": round(makespan, 1),
        "lower_bound_seconds": round(bound, 1),
        "makespan_over_lower_bound": round(makespan / bound, 4),
        "training_share": round(sum(trained.values()) / (makespan * place.cpus), 4),
    }


def launch(path: Path, storage: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "sweeps", "launch", str(path), "--storage", str(storage), "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ISOLOSS_"))}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the launch failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tasks_of(seconds: Mapping[str, float], needs: Mapping[str, Sequence[str]]) -> list[Task]:
    return [
        Task(id=id, function=nothing, needs=frozenset(needs[id]) & seconds.keys(), estimated_seconds=seconds[id])
        for id in seconds
    ]


def lower_bound(tasks: Sequence[Task], nodes: Iterable[Node]) -> float:
    """No schedule is shorter: all work over all that works (GPUs where there are any, else cores), and the longest path."""
    nodes = list(nodes)
    gpus = sum(node.gpus for node in nodes)

    def taken(resources: Resources) -> float:
        return resources.members * (resources.gpus if gpus else resources.cpus)

    work = sum(task.estimated_seconds * taken(task.resources) for task in tasks)
    path = max(Graph.of(tasks).path_seconds.values())
    return max(work / (gpus or sum(node.cpus for node in nodes)), path)


def time_simulation(arguments: argparse.Namespace) -> dict[str, Any]:
    import cluster.ray_executor  # noqa: F401 - with these two the memory is a launch's
    import sweeps.launching.launch  # noqa: F401
    from cluster.simulation import simulate
    from sweeps.designs.design import make_design
    from sweeps.designs.numerics import Numerics
    from sweeps.designs.run_configs import CorpusFacts
    from sweeps.designs.spec import SweepSpec

    budgets = 10
    spec = SweepSpec.model_validate(
        {
            "name": "thousands",
            "corpus": {"domains": {"web": {"stdlib": "prose", "weight": 1}}},
            "ladder": {"widths": list(SIMULATED), "context_length": 2048},
            "budgets": {"tokens": [int(1e9 * 1.5**step) for step in range(budgets)]},
            "recipe": {"name": "width_and_horizon", "reference_budget": 5_000_000_000},
            "seeds": {"base": list(range(math.ceil(arguments.runs / len(SIMULATED) / budgets)))},
            "evaluation": {"validation_tokens": 65_536},
        }
    )
    tokens = {"web": 10**12}
    corpus = CorpusFacts(digest="0" * 64, vocab_size=32_000, train_tokens=tokens, validation_tokens=tokens)
    nodes = [Node(id=f"node-{number}", cpus=128, gpus=8) for number in range(128)]
    started = time.perf_counter()
    design = make_design(spec, corpus, Numerics("bfloat16", compile_from_flops=0.0, attention_kernel="flash"))
    designed = time.perf_counter()
    tasks = []
    for segment in design.segments:
        takes = SIMULATED[segment.config.model.d_model]
        flops_per_second = SIMULATED_FLOPS_PER_SECOND * takes.gpus * takes.members
        arguments_of_it = {"config": segment.config.model_dump_json(), "until_step": segment.end_step}
        tasks.append(
            Task(
                id=segment.id,
                function=nothing,
                arguments=arguments_of_it,
                needs=frozenset(segment.needs),
                resources=takes,
                estimated_seconds=segment.flops / flops_per_second,
            )
        )
    made = time.perf_counter()
    processor = time.process_time()
    slots = simulate(tasks, nodes)
    simulated, processor = time.perf_counter(), time.process_time() - processor
    makespan, bound = max(slot.end_seconds for slot in slots), lower_bound(tasks, nodes)
    return {
        "runs": sum(not run.record.is_trunk for run in design.runs),
        "segments": len(design.segments),
        "gpus": sum(node.gpus for node in nodes),
        "design_seconds": round(designed - started, 2),
        "tasks_seconds": round(made - designed, 2),
        "simulation_seconds": round(simulated - made, 2),
        "simulation_processor_seconds": round(processor, 2),
        "makespan_days": round(makespan / 86_400, 2),
        "makespan_over_lower_bound": round(makespan / bound, 4),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def time_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both on one Ray, workers started and warm before either is timed."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_MAX_PENDING_TRIALS_PG": "2"}
    from cluster.session import open_session
    from cluster.supervisor import Supervisor

    with open_session(cpus=2, gpus=0) as executor, tempfile.TemporaryDirectory() as folder:
        Supervisor(noops(20), executor).run()
        started = time.perf_counter()
        summary = Supervisor(noops(arguments.segments), executor).run()
        assert summary.ok, summary.failed
        seconds = (time.perf_counter() - started) / len(summary.done)
        tune_seconds = time_tune(arguments.trials, Path(folder))
    return {
        "segments": len(summary.done),
        "milliseconds_a_segment": round(1000 * seconds, 2),
        "ray_tune_trials": arguments.trials,
        "ray_tune_milliseconds_a_trial": round(1000 * tune_seconds, 1),
        "ray_tune_settings": "function trainable, 1 CPU a trial, reuse_actors, no checkpoints, no loggers, verbose 0",
        "ray_tune_over_ours": round(tune_seconds / seconds, 1),
    }


def noops(count: int) -> list[Task]:
    return [Task(id=str(number), function=nothing) for number in range(count)]


def time_tune(trials: int, folder: Path) -> float:
    """Seconds a trial of a function that returns at once."""
    from ray import tune

    def trainable(config: dict[str, int]) -> None:
        tune.report({"loss": float(config["number"])})

    def run(count: int) -> float:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"number": tune.grid_search(list(range(count)))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=str(folder), verbose=0, log_to_file=False),
        )
        started = time.perf_counter()
        results = tuner.fit()
        assert not results.errors
        return (time.perf_counter() - started) / count

    run(2)
    return run(trials)


def time_restart(arguments: argparse.Namespace) -> dict[str, Any]:
    """`isoloss launch` where all runs are finished and in MLflow, from the command's start to its end.

    Beside it `isoloss sync`, which writes them to MLflow, and then looks at every one of them again.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, storage = Path(folder) / "finished.yaml", Path(folder) / "storage"
        write_sweep(path, arguments.folders)
        runs = finish_all(path, storage)
        time_launch(path, storage)  # the sweep's index
        first, second = time_sync(storage), time_sync(storage)
        again = [time_launch(path, storage) for _ in range(3)]
    return {
        "run_folders": runs,
        "first_sync_seconds": round(first, 2),
        "second_sync_seconds": round(second, 2),
        "launch_seconds": round(statistics.median(seconds for seconds, _ in again), 2),
        "launch_processor_seconds": round(statistics.median(processor for _, processor in again), 2),
    }


def time_launch(path: Path, storage: Path) -> tuple[float, float]:
    """Seconds by the clock, and of a processor: the second hold on a busy machine too."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = launch(path, storage)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result["trained_tokens"] == 0
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def time_sync(storage: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweeps", "sync", "finished", "--storage", str(storage)], check=True)
    return time.perf_counter() - started


def write_sweep(path: Path, folders: int) -> None:
    draw = random.Random(1)
    text = path.parent / "text"
    text.mkdir()
    for number in range(80):
        (text / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=200)))
    spec = {
        "name": "finished",
        "corpus": {
            "domains": {"plain": {"files": ["text"], "weight": 1}},
            "tokenizer": {"vocab_size": 320, "sample_bytes": 60_000},
            "held_out_fraction": 0.2,
        },
        "ladder": {"widths": [16, 32], "context_length": 32},
        "budgets": {"tokens": [65_536 + 4096 * step for step in range(10)]},
        "recipe": {"name": "width_and_horizon", "warmup_tokens": 4096, "reference_budget": 65_536},
        "seeds": {"base": list(range(math.ceil(folders / 22)))},  # 20 branches and 2 trunks a seed
        "evaluation": {"validation_tokens": 2048},
        "inference": False,
    }
    path.write_text(yaml.safe_dump(spec))


def finish_all(path: Path, storage: Path) -> int:
    """Write every run's folder as its training would have left it, less weights and points; returns how many."""
    from llama.metric_names import VAL_LOSS
    from llama.records import CONFIG, DONE, Done, write_record
    from sweeps.hardware.place import this_place
    from sweeps.planning.prepare import prepare
    from sweeps.storage import Storage

    runs = prepare(str(path), Storage(storage), this_place(), say=lambda line: None).design.runs
    for run in runs:
        folder = storage / "runs" / run.record.key
        folder.mkdir(parents=True)
        write_record(folder / CONFIG, run.config, durable=False)
        if not run.record.is_trunk:
            done = Done(
                outcome="finished",
                reason=None,
                step=run.config.steps,
                tokens=run.config.steps * run.config.batch_tokens,
                flops=1e12,
                metrics={VAL_LOSS: 3.0},
                training_seconds=60.0,
            )
            write_record(folder / DONE, done, durable=False)
    return len(runs)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "sweep": time_sweep,
    "simulation": time_simulation,
    "overhead": time_overhead,
    "restart": time_restart,
}


if __name__ == "__main__":
    main()
