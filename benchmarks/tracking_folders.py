"""A sweep that trains all its runs at once, as its folders show it: what `benchmarks.tracking` has mirrored."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

from llama.config import DataConfig, RunConfig
from llama.metric_names import (
    CPU_PERCENT,
    DISK_AVAILABLE_MEGABYTES,
    DISK_PERCENT,
    FLOPS,
    GRAD_NORM,
    LEARNING_RATE,
    MEMORY_MEGABYTES,
    MEMORY_PERCENT,
    PROCESS_CPU_PERCENT,
    PROCESS_MEMORY_MEGABYTES,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
)
from llama.recipes import Overrides, make_recipe
from llama.records import (
    COMPLETE,
    CONFIG,
    DONE,
    JOURNAL,
    CheckpointMark,
    Done,
    JournalPoint,
    checkpoint_folder,
    journal_line,
    write_record,
)
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.designs.ladder import model_for_width

KEYS = (
    *(TRAIN_LOSS, GRAD_NORM, LEARNING_RATE, TOKENS_PER_SECOND, FLOPS, CPU_PERCENT, MEMORY_MEGABYTES, MEMORY_PERCENT),
    *(DISK_PERCENT, DISK_AVAILABLE_MEGABYTES, PROCESS_CPU_PERCENT, PROCESS_MEMORY_MEGABYTES),
)
START_MS = 1_750_000_000_000
BATCH_TOKENS = 1024


class Sweep:
    """Run folders of a sweep that trains all at once."""

    def __init__(self, storage: Path, runs: int, points: int):
        self.storage, self.points = storage, points
        model = model_for_width(16, vocab_size=512, context_length=128)
        recipe = make_recipe("width_and_horizon", model, points * BATCH_TOKENS, Overrides(batch_tokens=BATCH_TOKENS))
        self.configs = [
            RunConfig(
                model=model,
                data=DataConfig(corpus_digest="0" * 64, weights={"text": 1.0}, validation_tokens=1),
                recipe=recipe,
                tokens=points * BATCH_TOKENS,
                seed=seed,
                micro_batch_sequences=8,
                activation_checkpointing="none",
                dtype="float32",
                compile=False,
                attention_kernel="flash",
            )
            for seed in range(runs)
        ]
        listed = [
            SweepRun(key=c.key, name=f"w16-s{c.seed}", trunk=None, is_trunk=False, flops_budget=1e12, held_out=False)
            for c in self.configs
        ]
        self.index = SweepIndex(sweep="many", sweep_id="many", corpus_folder="none", spec_folder=".", runs=listed)

    def folder(self, config: RunConfig) -> Path:
        return self.storage / "runs" / config.key

    def begin(self) -> None:
        for config in self.configs:
            self.folder(config).mkdir(parents=True)
            write_record(self.folder(config) / CONFIG, config, durable=False)

    def write(self, config: RunConfig, first: int, last: int) -> None:
        """Points `first` to `last` of one run, and the checkpoint that vouches for them; DONE after its last."""
        folder = self.folder(config)
        draw = random.Random(config.seed * 1_000_003 + first)
        with open(folder / JOURNAL, "a", encoding="utf-8") as file:
            for step in range(first, last + 1):
                metrics: dict[str, float | None] = {key: draw.lognormvariate(0, 1) for key in KEYS}
                point = JournalPoint(
                    step=step, tokens=step * BATCH_TOKENS, unix_ms=START_MS + 1000 * step, metrics=metrics
                )
                file.write(journal_line(point))
        mark = CheckpointMark(
            step=last,
            tokens=last * BATCH_TOKENS,
            journal_bytes=(folder / JOURNAL).stat().st_size,
            training_seconds=float(last),
            kept=False,
            sha256={"model.safetensors": f"{last:064x}"},
        )
        checkpoint_folder(folder, last).mkdir(parents=True)
        write_record(checkpoint_folder(folder, last) / COMPLETE, mark, durable=False)
        if last == self.points:
            done = Done(
                outcome="finished",
                reason=None,
                step=last,
                tokens=mark.tokens,
                flops=1e12,
                metrics={},
                training_seconds=float(last),
            )
            write_record(folder / DONE, done, durable=False)


def write_rounds(sweep: Sweep, rounds: int, live_seconds: float) -> None:
    """The trainers of all runs, in one process: a checkpoint of each in every round, the rounds evenly over the time."""
    started = time.monotonic()
    edges = [round(sweep.points * number / rounds) for number in range(rounds + 1)]
    for number, (before, last) in enumerate(itertools.pairwise(edges)):
        time.sleep(max(0.0, started + live_seconds * number / rounds - time.monotonic()))
        for config in sweep.configs:
            sweep.write(config, before + 1, last)
