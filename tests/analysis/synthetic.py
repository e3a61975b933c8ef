"""A sweep folder made from a known law: what the quickstart leaves behind, without training anything.

The law's parameters, the noise and the costs are stated here, so a test can ask whether the analysis finds them again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from llama.accounting import count_parameters, kv_bytes_per_token, training_flops_per_token, weight_bytes
from llama.config import DataConfig, ModelConfig, Recipe, RunConfig, llama_d_ff
from llama.data.repetition import repetition
from llama.metric_names import FLOPS, TOKENS_PER_SECOND, TRAIN_LOSS, VAL_BPB, VAL_LOSS, val_domain_bpb, val_domain_loss
from llama.records import (
    CONFIG,
    DONE,
    INFERENCE,
    JOURNAL,
    Done,
    InferenceCost,
    InferencePoint,
    JournalPoint,
    Quantiles,
    journal_line,
    write_record,
)
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun

#: The truth, near what a CPU pilot at these sizes showed: L = E + A N^-alpha + B D^-beta, N all parameters.
TRUTH = {"A": 2500.0, "B": 500.0, "E": 1.9, "alpha": 0.8, "beta": 0.48}
#: (d_model, n_layers): 23k, 39k, 73k, 132k, 267k, 400k parameters with a vocabulary of 512.
SHAPES = ((16, 2), (24, 2), (32, 3), (48, 3), (64, 4), (80, 4))
BUDGETS = (1e11, 2e11, 4e11, 8e11, 1.6e12)
#: Shapes trained at each budget, as the first shape and one past the last.
BUDGET_SHAPES = ((0, 3), (0, 4), (0, 4), (0, 5), (0, 6))
#: Core-seconds a token: t0 + c N.
TRAIN_SECONDS = (6e-6, 1.6e-9)
DECODE_SECONDS = (1.0e-5, 6.0e-10)
PREFILL_SECONDS = (2e-6, 2.5e-10)
BITS_PER_NAT = 1.4426950408889634
BYTES_PER_TOKEN = {"code": 2.2, "prose": 1.9}


@dataclass(frozen=True, kw_only=True)
class SyntheticSweep:
    """Where the sweep lies and what it was made from."""

    folder: Path
    """`<storage>/sweeps/<name>`."""
    storage: Path
    index: SweepIndex
    configs: dict[str, RunConfig]
    """By run key."""


def law_loss(n_params: float, n_tokens: float) -> float:
    return float(TRUTH["E"] + TRUTH["A"] * n_params ** -TRUTH["alpha"] + TRUTH["B"] * n_tokens ** -TRUTH["beta"])


def make_model(d_model: int, n_layers: int) -> ModelConfig:
    heads = max(1, d_model // 16)
    if d_model % heads or (d_model // heads) % 2:
        heads = 1
    return ModelConfig(
        vocab_size=512,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=heads,
        n_kv_heads=heads,
        d_ff=llama_d_ff(d_model, 16),
        context_length=128,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=False,
    )


def make_run(model: ModelConfig, tokens: int, seed: int) -> RunConfig:
    """A WSD run of its own, 1,024 tokens a step; `tokens` is rounded down to whole batches."""
    return RunConfig(
        model=model,
        data=DataConfig(corpus_digest="c" * 64, weights={"code": 0.5, "prose": 0.5}, validation_tokens=16_384),
        recipe=Recipe(
            name="synthetic",
            peak_lr=0.256 / model.d_model,
            batch_sequences=8,
            warmup_tokens=32_768,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
            schedule="wsd",
            final_lr_ratio=0.0,
            cooldown_fraction=0.2,
            cooldown_min_steps=20,
            reference_tokens=4_194_304,
            transfer=None,
            skip_sigma=None,
        ),
        tokens=tokens // 1024 * 1024,
        seed=seed,
        dtype="float32",
        compile=False,
        attention_kernel="flash",
        micro_batch_sequences=8,
        activation_checkpointing="none",
    )


def make_branch(run: RunConfig) -> RunConfig:
    """The same run as a branch off its trunk."""
    return run.model_copy(update={"parent": run.trunk().key, "fork_step": run.cooldown_start_step})


def write_sweep(
    storage: Path,
    *,
    name: str = "synthetic",
    noise: float = 0.01,
    seed: int = 0,
    inference: bool = True,
    budgets: bool = True,
    diverged: int = 0,
    train_tokens: dict[str, int] | None = None,
) -> SyntheticSweep:
    """Write `<storage>/sweeps/<name>` and its runs: trunks, branches at shared budgets, three seeds at the small cells.

    `noise` is the sd of log loss between seeds, half of its variance shared along a trunk. `budgets=False` leaves the
    declared budgets out of the index; `diverged` adds that many runs that ended in a non-finite loss;
    with `train_tokens`, by domain, runs note what they drew from a corpus of so many.
    """
    rng = random.Random(seed)
    runs: list[SweepRun] = []
    configs: dict[str, RunConfig] = {}
    trunk_noise: dict[str, float] = {}
    for budget, (first, last) in zip(BUDGETS, BUDGET_SHAPES, strict=True):
        for number in range(first, last):
            d_model, n_layers = SHAPES[number]
            model = make_model(d_model, n_layers)
            n_seeds = 3 if number < 2 and budget <= 2e11 else 1
            for run_seed in range(n_seeds):
                tokens = int(budget / training_flops_per_token(model))
                branch = make_branch(make_run(model, tokens, run_seed))
                trunk = branch.trunk()
                if trunk.key not in configs:
                    configs[trunk.key] = trunk
                    trunk_noise[trunk.key] = rng.gauss(0, noise / 2**0.5)
                    runs.append(
                        SweepRun(
                            key=trunk.key,
                            name=f"w{d_model}-trunk-s{run_seed}",
                            trunk=None,
                            is_trunk=True,
                            flops_budget=None,
                            held_out=number == len(SHAPES) - 1,
                        )
                    )
                configs[branch.key] = branch
                runs.append(
                    SweepRun(
                        key=branch.key,
                        name=f"w{d_model}-C{budget:.2g}-s{run_seed}",
                        trunk=trunk.key,
                        is_trunk=False,
                        flops_budget=budget if budgets else None,
                        held_out=number == len(SHAPES) - 1,
                    )
                )
                factor = 1 + trunk_noise[trunk.key] + rng.gauss(0, noise / 2**0.5)
                _write_branch(storage / "runs" / branch.key, branch, factor, rng, train_tokens)
    for number in range(diverged):
        lost = make_run(make_model(*SHAPES[0]), 200_000 + 1024 * number, 90 + number)
        configs[lost.key] = lost
        runs.append(
            SweepRun(
                key=lost.key, name=f"diverged-{number}", trunk=None, is_trunk=False, flops_budget=None, held_out=False
            )
        )
        _write_diverged(storage / "runs" / lost.key, lost)
    for run in runs:
        if run.is_trunk:
            branches = [configs[other.key] for other in runs if other.trunk == run.key]
            steps = max(branch.fork_step or 0 for branch in branches)
            _write_trunk(storage / "runs" / run.key, configs[run.key], steps, trunk_noise[run.key], rng)
            if inference:
                write_record(storage / "runs" / run.key / INFERENCE, make_inference(configs[run.key].model))
    index = SweepIndex(
        sweep=name, sweep_id="5" * 12, corpus_folder="corpora/synthetic", spec_folder="studies", runs=runs
    )
    folder = storage / "sweeps" / name
    folder.mkdir(parents=True)
    write_record(folder / SWEEP_INDEX, index)
    return SyntheticSweep(folder=folder, storage=storage, index=index, configs=configs)


def make_inference(model: ModelConfig) -> InferenceCost:
    """Serving cost by the affine times above; batches gain until 32, and 64 is a little slower."""
    n = count_parameters(model).n_params
    points = []
    for batch in (1, 4, 16, 32, 64):
        gain = min(batch, 32) * (1.0 if batch <= 32 else 0.97)
        decode_seconds = (DECODE_SECONDS[0] + DECODE_SECONDS[1] * n) * (32 / gain)
        prefill_seconds = (PREFILL_SECONDS[0] + PREFILL_SECONDS[1] * n) * (32 / gain) ** 0.2
        tpot, ttft = decode_seconds * batch, prefill_seconds * 64 * batch
        points.append(
            InferencePoint(
                batch=batch,
                ttft_seconds=Quantiles(median=ttft, p5=0.95 * ttft, p95=1.1 * ttft),
                tpot_seconds=Quantiles(median=tpot, p5=0.95 * tpot, p95=1.1 * tpot),
                prefill_tokens_per_second=1 / prefill_seconds,
                decode_tokens_per_second=1 / decode_seconds,
            )
        )
    return InferenceCost(
        device="synthetic core",
        threads=1,
        dtype="float32",
        prompt_tokens=64,
        output_tokens=64,
        repetitions=5,
        weight_bytes=weight_bytes(model, 4),
        kv_bytes_per_token=kv_bytes_per_token(model, 4),
        points=points,
    )


def _training_seconds_per_token(run: RunConfig) -> float:
    return TRAIN_SECONDS[0] + TRAIN_SECONDS[1] * count_parameters(run.model).n_params


def _journal(run: RunConfig, steps: range, loss_offset: float, drop: float, rng: random.Random) -> str:
    """Points every `log_every_steps` and at the last step; a cooldown loses `drop` nats over its length, linearly."""
    n, flops = count_parameters(run.model).n_params, training_flops_per_token(run.model)
    lines = []
    for step in [*range(steps.start + run.log_every_steps, steps.stop, run.log_every_steps), steps.stop]:
        tokens = step * run.batch_tokens
        progress = (step - steps.start) / max(1, steps.stop - steps.start)
        loss = law_loss(n, tokens) * (1 + loss_offset) + drop * (1 - progress)
        metrics: dict[str, float | None] = {
            TRAIN_LOSS: loss * (1 + rng.gauss(0, 0.01)),
            TOKENS_PER_SECOND: 1 / _training_seconds_per_token(run),
            FLOPS: float(flops * tokens),
        }
        if step == steps.stop:
            metrics[VAL_LOSS] = loss
        lines.append(
            journal_line(JournalPoint(step=step, tokens=tokens, unix_ms=1_700_000_000_000 + step, metrics=metrics))
        )
    return "".join(lines)


def _write_trunk(folder: Path, run: RunConfig, steps: int, noise: float, rng: random.Random) -> None:
    folder.mkdir(parents=True)
    write_record(folder / CONFIG, run)
    (folder / JOURNAL).write_text(_journal(run, range(steps), noise, 0.15, rng) if steps else "", encoding="utf-8")


def _write_branch(
    folder: Path, run: RunConfig, factor: float, rng: random.Random, train_tokens: dict[str, int] | None
) -> None:
    assert run.tokens is not None
    assert run.steps is not None
    assert run.fork_step is not None
    folder.mkdir(parents=True)
    write_record(folder / CONFIG, run)
    (folder / JOURNAL).write_text(
        _journal(run, range(run.fork_step, run.steps), factor - 1, 0.15, rng), encoding="utf-8"
    )
    loss = law_loss(count_parameters(run.model).n_params, run.tokens) * factor
    metrics: dict[str, float | None] = {VAL_LOSS: loss}
    for domain, gap in (("code", -0.1), ("prose", 0.1)):
        metrics[val_domain_loss(domain)] = loss + gap
        metrics[val_domain_bpb(domain)] = (loss + gap) * BITS_PER_NAT / BYTES_PER_TOKEN[domain]
    metrics[VAL_BPB] = loss * BITS_PER_NAT / 2.05
    if train_tokens is not None:
        metrics |= repetition(
            train_tokens, run.data.weights, context_length=run.model.context_length, tokens=run.tokens
        ).metrics
    own_tokens = (run.steps - run.fork_step) * run.batch_tokens
    done = Done(
        outcome="finished",
        reason=None,
        step=run.steps,
        tokens=run.tokens,
        flops=float(run.tokens * training_flops_per_token(run.model)),
        metrics=metrics,
        training_seconds=own_tokens * _training_seconds_per_token(run),
    )
    write_record(folder / DONE, done)


def _write_diverged(folder: Path, run: RunConfig) -> None:
    folder.mkdir(parents=True)
    write_record(folder / CONFIG, run)
    done = Done(
        outcome="diverged",
        reason="the loss is not finite at step 37",
        step=37,
        tokens=37 * 1024,
        flops=37 * 1024 * training_flops_per_token(run.model),
        metrics={VAL_LOSS: None},
        training_seconds=1.0,
    )
    write_record(folder / DONE, done)
