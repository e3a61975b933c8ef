"""What a run spends beside training steps, by part: one real segment on the embedded corpus, timed from inside.

Shares within one run hold on a noisy machine, where the difference of two runs would not; processor time counts, so that other
processes don't.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import run_config
from llama import trainer
from llama.config import DataConfig
from llama.data.corpus import Corpus
from llama.device import pick_device
from llama.logbook import Logbook
from llama.training_state import TrainingState
from sweeps.designs.ladder import model_for_width

#: Parts of the loop, and whose method does each. What none of them takes is the loop itself.
PARTS: dict[str, tuple[Any, str]] = {
    "step": (TrainingState, "update"),
    "data": (trainer._Segment, "_make_batch"),
    "journal": (trainer._Segment, "_close_window"),
    "heartbeat": (Logbook, "beat"),
    "checkpoint": (trainer._Segment, "_checkpoint"),
    "collections": (gc, "collect"),
    "validation": (trainer._Segment, "_validate"),
}
LOOP = (trainer._Segment, "train")


def measure_overhead(
    width: int, context: int, batch: int, *, corpus: Corpus, storage: Path, steps: int
) -> dict[str, Any]:
    """Shares of the loop's processor seconds. Checkpoints, the collections at them and validation are no part of a step, and
    stand apart, in seconds."""
    model = model_for_width(width, vocab_size=corpus.vocab_size, context_length=context)
    config = run_config(model, batch, pick_device(), compile=False, dtype="float32")
    weights = {name: 1 / len(corpus.domains) for name in corpus.domains}
    data = DataConfig(corpus_digest=corpus.digest, weights=weights, validation_tokens=4096)
    config = config.model_copy(update={"data": data})
    spent: dict[str, float] = defaultdict(float)
    with _timed(spent):
        trainer.train_segment(config, run_folder=storage / "runs" / config.key, corpus=corpus, until_step=steps)
    apart = {part: spent.pop(part) for part in ("checkpoint", "collections", "validation")}
    loop = spent.pop("whole loop") - sum(apart.values())
    shares = {name: seconds / loop for name, seconds in spent.items() if name != "step"}
    shares["loop"] = 1 - sum(spent.values()) / loop
    return {
        "steps": steps,
        "loop_seconds": round(loop, 2),
        "beside_steps": round(1 - spent["step"] / loop, 5),
        "shares": {name: round(share, 5) for name, share in shares.items()},
        "seconds_apart": {name: round(seconds, 2) for name, seconds in apart.items()},
    }


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    places = {**PARTS, "whole loop": LOOP}
    originals = {part: getattr(owner, name) for part, (owner, name) in places.items()}
    for part, (owner, name) in places.items():
        setattr(owner, name, _timing(originals[part], part, spent))
    try:
        yield
    finally:
        for part, (owner, name) in places.items():
            setattr(owner, name, originals[part])


def _timing(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            spent[part] += time.process_time() - started

    return timed
