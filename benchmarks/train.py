"""What a run spends beside training: `python -m benchmarks.train [--widths 16 32 64 80]` prints one JSON document.

For each of the quickstart's sizes one real segment is trained on the embedded corpus, with its journal, heartbeats and
checkpoints at their defaults, and the seconds inside each of these are set against the seconds of the whole loop. Shares
within one run hold on a noisy machine, where the difference of two runs would not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions
from llama import trainer
from llama.accounting import count_parameters, training_flops_per_token
from llama.data.building.build import build_corpus
from llama.logbook import Logbook
from sweeps.design import CorpusFacts, make_design, resolve_numerics
from sweeps.spec import load_sweep

#: Parts of the loop that are not the training step, and the method that does each.
OVERHEADS = {"journal": "_close_window", "heartbeat": "beat", "checkpoint": "_checkpoint"}
VALIDATION = "_validate"
OWNERS = {"beat": Logbook}
"""Of methods that are not the segment's own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 80])
    parser.add_argument("--seconds", type=float, default=45.0, help="about how long each size trains")
    arguments = parser.parse_args()
    on = machine()
    with as_file(files("sweeps") / "studies" / "quickstart.yaml") as path:
        spec = load_sweep(path)
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        corpus = build_corpus(spec.corpus, storage, base=storage, report=lambda line: None)
        design = make_design(spec, CorpusFacts.of(corpus), resolve_numerics(spec, "cpu", has_bf16_tiles=False))
        trunks = {run.config.model.d_model: run.config for run in design.runs if run.record.is_trunk}
        rows = [_measure(trunks[width], corpus, storage, arguments.seconds) for width in arguments.widths]
    document = {"benchmark": "train", "machine": on, "versions": versions("torch"), "threads": 1, "sizes": rows}
    print(json.dumps(document, indent=1))


def _measure(config: Any, corpus: Any, storage: Path, seconds: float) -> dict[str, Any]:
    """Train one trunk for about `seconds` and account for every second of its loop."""
    from llama.speed import measure_training_speed

    speed = measure_training_speed(
        config.model, config.recipe, dtype=config.dtype, attention_kernel=config.attention_kernel, seconds=1.0
    )
    spent: dict[str, float] = defaultdict(float)
    owners = {name: OWNERS.get(name, trainer._Segment) for name in [*OVERHEADS.values(), VALIDATION]}
    originals = {name: getattr(owner, name) for name, owner in owners.items()}
    for name, original in originals.items():
        setattr(owners[name], name, _timed(original, name, spent))
    try:
        started = time.perf_counter()
        result = trainer.train_segment(
            config,
            run_folder=storage / "runs" / config.key,
            corpus=corpus,
            until_step=max(1, int(seconds * speed / config.batch_tokens)),
        )
        wall = time.perf_counter() - started
    finally:
        for name, original in originals.items():
            setattr(owners[name], name, original)
    loop = result.training_seconds + sum(spent[name] for name in OVERHEADS.values())
    shares = {label: spent[name] / loop for label, name in OVERHEADS.items()}
    tokens_per_second = result.trained_tokens / result.training_seconds
    return {
        "d_model": config.model.d_model,
        "n_params": count_parameters(config.model).n_params,
        "trained_tokens": result.trained_tokens,
        "tokens_per_second": round(tokens_per_second),
        "gflops_per_second": round(tokens_per_second * training_flops_per_token(config.model) / 1e9, 1),
        "loop_seconds": round(loop, 2),
        "share_of_loop": {label: round(share, 5) for label, share in shares.items()},
        "logging_and_checkpoints": round(sum(shares.values()), 5),
        "validation_seconds": round(spent[VALIDATION], 3),
        "setup_seconds": round(wall - loop - spent[VALIDATION], 3),
    }


def _timed(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - started

    return timed


if __name__ == "__main__":
    main()
