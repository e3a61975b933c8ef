"""Training speed against Hugging Face's LLaMA, and what a run spends beside its steps: `python -m benchmarks.train` prints one
JSON document.

All contenders of a width live in one process and take turns; a figure is the median over turns of processor seconds a step
(seconds on a GPU), a ratio the median of ratios within a turn. Compile time stands apart. `--attention` times the attention
kernel's precisions instead. On a GPU the same command gives MFU too: `--widths 768 --context 1024 --batch 32` and the like,
with fewer `--contenders` where all don't fit. Ours makes the process's algorithms deterministic, and so the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contenders import start
from benchmarks.machine import machine, versions
from benchmarks.overhead import measure_overhead
from llama.accounting import count_parameters, training_flops_per_token
from llama.data.building.build import build_corpus
from llama.device import device_name, peak_flops_per_second, pick_device
from sweeps.designs.ladder import model_for_width
from sweeps.designs.spec import load_sweep
from sweeps.tracking.code import code_tags

CONTENDERS = [
    "hugging_face eager float32",
    "hugging_face compiled float32",
    "hugging_face compiled bfloat16",
    "ours eager float32",
    "ours eager bfloat16",
    "ours compiled float32",
    "ours compiled bfloat16",
]


#: What every contender is set against.
PEERS = ["hugging_face eager float32", "hugging_face compiled float32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--turn-seconds", type=float, default=0.5)
    parser.add_argument("--overhead-steps", type=int, default=400, help="0 leaves it out")
    parser.add_argument("--attention", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device()
    # All compile into one empty cache: what it costs a machine once.
    cache = tempfile.TemporaryDirectory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    torch._inductor.config.compile_threads = 1
    torch.compile(torch.sin)(torch.ones(8))  # what the first to compile would pay for all
    document: dict[str, Any] = {
        "benchmark": "train",
        "machine": machine(),
        "device": device_name(device),
        "versions": versions("torch", "transformers"),
        "commit": code_tags().get("code.commit"),
        "threads": 1,
        "context": arguments.context,
        "batch_sequences": arguments.batch,
        "vocabulary": arguments.vocabulary,
    }
    if arguments.attention:
        document["attention"] = [time_attention(heads, arguments.context) for heads in (4, 8, 16)]
    else:
        document["sizes"] = [time_size(width, arguments, device) for width in arguments.widths]
        if arguments.overhead_steps:
            document["overhead"] = time_overhead(arguments)
    print(json.dumps(document, indent=1))


def time_size(width: int, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    model = model_for_width(width, vocab_size=arguments.vocabulary, context_length=arguments.context)
    shape = (arguments.batch, arguments.context + 1)
    tokens_BS = torch.randint(arguments.vocabulary, shape, generator=torch.Generator().manual_seed(0)).to(device)
    contenders = {name: start(name, model, tokens_BS, device) for name in arguments.contenders}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    turns = {name: list[float]() for name in contenders}
    order = list(contenders.items())
    for _ in range(arguments.turns):
        order.append(order.pop(0))
        for name, contender in order:
            contender.step()  # the others' data have left the caches
            turns[name].append(_seconds_a_step(contender.step, clock, arguments.turn_seconds))
    tokens = arguments.batch * arguments.context
    rows = {}
    for name, seconds in turns.items():
        tokens_per_second = tokens / statistics.median(seconds)
        peak = peak_flops_per_second(device, name.split()[-1])
        rows[name] = {
            "tokens_per_second": round(tokens_per_second),
            "gflops_per_second": round(tokens_per_second * training_flops_per_token(model) / 1e9, 1),
            "mfu": None if peak is None else round(tokens_per_second * training_flops_per_token(model) / peak, 4),
            "times": {peer: round(_median_ratio(turns[peer], seconds), 3) for peer in PEERS if peer in turns},
            "start_seconds": round(contenders[name].start_seconds, 1),
        }
    return {
        "d_model": width,
        "n_layers": model.n_layers,
        "n_params": count_parameters(model).n_params,
        "contenders": rows,
    }


def time_attention(heads: int, context: int) -> dict[str, Any]:
    """Milliseconds of the flash kernel, forward and backward, in both precisions."""
    found: dict[str, Any] = {"heads": heads, "d_head": 16, "context": context, "batch_sequences": 8}
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(8, heads, context, 16, dtype=dtype, requires_grad=True) for _ in range(3))

        def step(q: Any = q, k: Any = k, v: Any = v) -> None:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

        step()
        seconds = statistics.median(_seconds_a_step(step, time.process_time, 0.3) for _ in range(7))
        found[f"{str(dtype).removeprefix('torch.')}_ms"] = round(1000 * seconds, 2)
    return found


def time_overhead(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with as_file(files("sweeps") / "studies" / "quickstart.yaml") as path:
        spec = load_sweep(path)
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        corpus = build_corpus(spec.corpus, storage, base=storage, report=lambda line: None)
        return [
            {"d_model": width}
            | measure_overhead(
                width,
                arguments.context,
                arguments.batch,
                corpus=corpus,
                storage=storage,
                steps=arguments.overhead_steps,
            )
            for width in arguments.widths
        ]


def _seconds_a_step(step: Callable[[], object], clock: Callable[[], float], at_least: float) -> float:
    steps, started = 0, clock()
    while (elapsed := clock() - started) < at_least:
        step()
        steps += 1
    return elapsed / steps


def _median_ratio(base: list[float], seconds: list[float]) -> float:
    return statistics.median(theirs / ours for theirs, ours in zip(base, seconds, strict=True))


if __name__ == "__main__":
    main()
