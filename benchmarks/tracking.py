"""What MLflow can take from a sweep, and what that costs: `python -m benchmarks.tracking`. One JSON document.

A real MLflow server on SQLite (loopback, one process, as `isoloss ui` has it), the launcher's own mirror in a process of its
own, and run folders written as trainers write them: `--runs` runs at once, each with `--points` points of 12 keys, given out
with a checkpoint in `--rounds` rounds over `--live-seconds`. Said are

* whether anything was lost or doubled: counted by SQL for every run and key, and read back through MLflow's API for a sample;
* points a second, from the first to the last, and how long MLflow was behind once the last run had ended;
* the peak memory of the mirror and of the server, and their processor time a million points;
* whether training is slowed: beside all this a process trains, on the last core or on `--training-core`, the others left to
  the mirror and its server. Its processor time a step is taken in blocks of a second while rounds come in, in turn beside the
  mirror and the server, with them stopped (SIGSTOP), and with them stopped and a plain Python loop in their place: cores share
  caches and memory, so any work on one is felt by the next. Blocks are compared turn by turn. The stops are taken out of the
  rates. The disk's interrupts may all go to one core (/proc/interrupts): who trains there serves them for everybody.

The 12 million points of 1,000 runs are 14,000 calls, of which one takes the server 0.08 to 0.13 s of processor time: 40
minutes. With --points 330 it is a third of that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.machine import machine, versions
from benchmarks.tracking_folders import KEYS, Sweep, write_rounds
from llama.metric_names import FLOPS
from llama.records import read_journal
from llama.sweep_index import SweepIndex
from sweeps.designs.ladder import model_for_width

#: What is at work on the other cores while a block is trained.
Beside = Literal["tracking", "nothing", "other work"]

BLOCK_SECONDS = 1.0
SAMPLED_RUNS = 5
PATIENCE_SECONDS = 24 * 3600.0


def mirror_sweep(storage: Path, index_json: str, uri: str, pipe: Connection, cores: set[int]) -> None:
    """The uploader, until it is told that training has ended; then it says how that went and what it took."""
    os.sched_setaffinity(0, cores)
    from sweeps.tracking import Mirror

    mirror = Mirror(storage, SweepIndex.model_validate_json(index_json), uri)
    pipe.send(peak_megabytes(os.getpid()))
    mirror.start()
    pipe.recv()
    report = mirror.stop(PATIENCE_SECONDS)
    peak, processor = peak_megabytes(os.getpid()), time.process_time()
    pipe.send({"sent": report.points, "trouble": report.trouble, "peak_megabytes": peak, "cpu_seconds": processor})


def train_beside(pipe: Connection, core: int) -> None:
    """Trains a block of steps whenever it is asked; answers with its processor seconds a step."""
    os.sched_setaffinity(0, {core})
    import torch

    from benchmarks.contenders import start

    torch.set_num_threads(1)
    model = model_for_width(64, vocab_size=512, context_length=128)
    tokens_BS = torch.randint(512, (8, 129), generator=torch.Generator().manual_seed(0))
    step = start("ours eager float32", model, tokens_BS, torch.device("cpu")).step
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        steps, began, until = 0, time.process_time(), time.monotonic() + seconds
        while time.monotonic() < until:
            step()
            steps += 1
        pipe.send((time.process_time() - began) / steps)


def work(cores: set[int]) -> None:
    """What keeps a core busy and has nothing to do with training."""
    os.sched_setaffinity(0, cores)
    while True:
        sum({n: str(n) for n in range(10_000)})


@contextmanager
def tracking_server(folder: Path, cores: set[int]) -> Iterator[tuple[str, int]]:
    """A server on loopback; its URI and its process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with open(folder / "server.log", "ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text()) from None
                time.sleep(0.2)
        for pid in group_members(server.pid):
            os.sched_setaffinity(pid, cores)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def group_members(group: int) -> list[int]:
    """Processes of a group that are alive."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(path.name)) == group:
                members.append(int(path.name))
    return members


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_seconds(pids: list[int]) -> float:
    ticks = [sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) for pid in pids]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def count_in_store(database: Path, sweep: Sweep) -> dict[str, Any]:
    """What SQL says: MLflow's primary key lets no row be there twice, so that equal counts are equal sets of points."""
    query = """
        select count(*) from metrics join runs using (run_uuid)
        where lifecycle_stage = 'active' and key = ? group by run_uuid
    """
    with sqlite3.connect(database) as connection:
        counts = {key: [count for (count,) in connection.execute(query, (key,))] for key in KEYS}
    expected = len(sweep.configs) * sweep.points * len(KEYS)
    found = sum(map(sum, counts.values()))
    whole = all(
        len(column) == len(sweep.configs) and set(column) <= {sweep.points, sweep.points + (key == FLOPS)}
        for key, column in counts.items()
    )
    return {"expected": expected, "found": found, "every_run_and_key_whole": whole}


def read_through_api(uri: str, sweep: Sweep) -> bool:
    """Whether sampled runs' curves come back from MLflow as their journals have them, point for point and in order."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("many")
    for config in random.Random(0).sample(sweep.configs, min(SAMPLED_RUNS, len(sweep.configs))):
        [run] = client.search_runs([experiment.experiment_id], f"tags.`run.key` = '{config.key}'")
        points = list(read_journal(sweep.folder(config)))
        for key in KEYS:
            history = client.get_metric_history(run.info.run_id, key)
            written = [(point.tokens, point.unix_ms, point.metrics[key]) for point in points]
            if [(m.step, m.timestamp, m.value) for m in history][: len(written)] != written:
                return False
    return True


def compare_blocks(turns: list[dict[Beside, float]]) -> dict[str, Any]:
    """Processor time a step beside the one against beside the other, by turn: the median, and its 95 % interval by resampling
    turns.
    """

    def slower(one: Beside, other: Beside) -> dict[str, Any]:
        ratios, draw = [turn[one] / turn[other] for turn in turns], random.Random(0)
        medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
        interval = [round(medians[50] - 1, 4), round(medians[1949] - 1, 4)]
        return {"slower_by": round(statistics.median(ratios) - 1, 4), "slower_by_ci95": interval}

    return {
        "turns": len(turns),
        "step_cpu_ms": {
            one: round(1000 * statistics.median(turn[one] for turn in turns), 3) for one in get_args(Beside)
        },
        "tracking_against_nothing": slower("tracking", "nothing"),
        "tracking_against_other_work": slower("tracking", "other work"),
        "other_work_against_nothing": slower("other work", "nothing"),
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    core = max(os.sched_getaffinity(0)) if options.training_core is None else options.training_core
    others = os.sched_getaffinity(0) - {core} or {core}
    sweep = Sweep(folder / "storage", options.runs, options.points)
    sweep.begin()
    with tracking_server(folder, others) as (uri, group):
        trainer_pipe, theirs = spawn.Pipe()
        trainer = spawn.Process(target=train_beside, args=(theirs, core), daemon=True)
        trainer.start()
        trainer_pipe.recv()
        mirror_pipe, theirs = spawn.Pipe()
        arguments = (sweep.storage, sweep.index.model_dump_json(), uri, theirs, others)
        uploader = spawn.Process(target=mirror_sweep, args=arguments, daemon=True)
        uploader.start()
        start_megabytes = mirror_pipe.recv()
        writer = multiprocessing.get_context("fork").Process(
            target=write_rounds, args=(sweep, options.rounds, options.live_seconds), daemon=True
        )
        other = spawn.Process(target=work, args=(others,), daemon=True)
        other.start()
        began, stopped_seconds = time.monotonic(), 0.0
        writer.start()
        os.sched_setaffinity(writer.pid or 0, others)
        turns: list[dict[Beside, float]] = []
        while writer.is_alive():
            blocks = {}
            for beside in random.Random(len(turns)).sample(get_args(Beside), 3):
                mirroring = [uploader.pid or 0, *group_members(group)]
                stand_still = [] if beside == "tracking" else mirroring
                stand_still += [] if beside == "other work" else [other.pid or 0]
                block_began = time.monotonic()
                with stopped(stand_still):
                    trainer_pipe.send(BLOCK_SECONDS)
                    blocks[beside] = trainer_pipe.recv()
                stopped_seconds += 0.0 if beside == "tracking" else time.monotonic() - block_began
            turns.append(blocks)
        other.kill()
        trainer_pipe.send(None)
        ended = time.monotonic()
        mirror_pipe.send("training has ended")
        report = mirror_pipe.recv()
        done = time.monotonic()
        members = group_members(group)
        server = {
            "peak_megabytes": round(sum(map(peak_megabytes, members))),
            "cpu_seconds": round(cpu_seconds(members), 1),
        }
        millions = options.runs * options.points * len(KEYS) / 1e6
        return {
            "runs": options.runs,
            "points_a_run": options.points,
            "keys": len(KEYS),
            "trouble": report["trouble"],
            "sent": report["sent"],
            "in_store": count_in_store(folder / "server.db", sweep),
            "sample_equals_journals": read_through_api(uri, sweep),
            "points_a_second": round(1e6 * millions / (done - began - stopped_seconds)),
            "seconds": {
                "from_first_point_to_last": round(done - began, 1),
                "of_that_stopped": round(stopped_seconds, 1),
                "behind_after_the_end": round(done - ended, 1),
            },
            "mirror": {
                "peak_megabytes": round(report["peak_megabytes"]),
                "of_that_at_the_start": round(start_megabytes),
                "cpu_seconds_a_million_points": round(report["cpu_seconds"] / millions, 1),
            },
            "server": server | {"cpu_seconds_a_million_points": round(server["cpu_seconds"] / millions, 1)},
            "store_megabytes": round((folder / "server.db").stat().st_size / 1e6),
            "training": {"core": core} | compare_blocks(turns),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--live-seconds", type=float, default=120.0)
    parser.add_argument("--training-core", type=int, help="where training is timed (default: the last)")
    parser.add_argument("--folder", type=Path, help="where the store and the run folders go (default: a temporary one)")
    options = parser.parse_args()
    if options.training_core not in {None, *os.sched_getaffinity(0)}:
        parser.error(f"--training-core {options.training_core}: one of {sorted(os.sched_getaffinity(0))} is right")
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        document = {
            "machine": machine(),
            "versions": versions("mlflow", "sqlalchemy", "torch"),
            **measure(Path(folder), options),
        }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
