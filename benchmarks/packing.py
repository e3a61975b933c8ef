"""What several runs on one device do together, against one alone: `python -m benchmarks.packing` prints one JSON document.

On a GPU if torch has one, at sizes of a small ladder: in turns, and through MPS where its daemon is installed. Else on the CPU,
small: one run of all cores against runs side by side. Every number is a ratio to one run alone, measured `--rounds` times in
turn with it, and the median is told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from benchmarks.contenders import run_config
from benchmarks.machine import machine, versions
from cluster.machine import available_cpus
from cluster.mps import sharing_gpus
from llama.accounting import count_parameters
from llama.config import RunConfig
from llama.device import pick_device
from llama.sharing import SharedSpeed, measure_sharing
from sweeps.designs.ladder import model_for_width
from sweeps.hardware.packing import choose, search

#: Widths, context, sequences a step, and seconds of each measurement.
ON_GPU = ((64, 128, 256, 512), 256, 64, 5.0)
ON_CPU = ((32, 64), 64, 16, 2.0)
MOST_RUNS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Summed tokens a second of runs that share a device.")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each number of runs")
    rounds = parser.parse_args().rounds
    device = pick_device()
    has_gpu = device.type == "cuda"
    widths, context, batch, seconds = ON_GPU if has_gpu else ON_CPU
    configs = [
        run_config(
            model_for_width(width, vocab_size=1024, context_length=context),
            batch,
            device,
            compile=False,
            dtype="bfloat16" if has_gpu else "float32",
        )
        for width in widths
    ]
    document: dict[str, Any] = {
        "benchmark": "packing",
        "machine": machine(),
        "versions": versions("torch"),
        "device": torch.cuda.get_device_name(device) if has_gpu else "cpu",
        "rounds": rounds,
    }
    ways: dict[str, AbstractContextManager[bool]] = {"side_by_side": nullcontext(True)}
    if has_gpu:
        ways = {"in_turns": nullcontext(True), "mps": sharing_gpus(note)}
    for way, session in ways.items():
        with session as started:
            document[way] = [measure(config, seconds, rounds, has_gpu) for config in configs] if started else None
    print(json.dumps(document, indent=1))


def measure(config: RunConfig, seconds: float, rounds: int, has_gpu: bool) -> dict[str, Any]:
    """One shape: what the packing chooser would choose, and each number of runs against one alone."""
    cores = available_cpus()

    def once(runs: int) -> SharedSpeed:
        threads = 1 if has_gpu else max(1, cores // runs)
        return measure_sharing(config, runs, seconds=seconds, threads=threads, use_gpu=has_gpu)

    found = [search(once, at_most=MOST_RUNS if has_gpu else cores) for _ in range(rounds)]
    ratios: dict[int, list[float]] = {}
    for speeds in found:
        for speed in speeds:
            ratios.setdefault(speed.runs, []).append(speed.tokens_per_second / speeds[0].tokens_per_second)
    return {
        "n_params": count_parameters(config.model).n_params,
        "chosen_runs": [choose(speeds).runs for speeds in found],
        "alone_tokens_per_second": round(statistics.median(speeds[0].tokens_per_second for speeds in found)),
        "memory_bytes_a_run": max(speed.memory_bytes for speeds in found for speed in speeds),
        "together_against_one": {runs: round(statistics.median(each), 3) for runs, each in ratios.items()},
    }


def note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
