"""Sweeps of made-up runs in real run folders: trunks and branches with losses from a Chinchilla surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import DataConfig, ModelConfig, Recipe, RunConfig, llama_d_ff
from llama.data.corpus import MANIFEST, CorpusManifest, DomainManifest
from llama.data.sources import CorpusSpec, DomainSpec
from llama.metric_names import (
    FLOPS,
    GRAD_NORM,
    LEARNING_RATE,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    VAL_BPB,
    VAL_LOSS,
    val_domain_bpb,
)
from llama.records import (
    COMPLETE,
    CONFIG,
    DONE,
    HEARTBEAT,
    INFERENCE,
    JOURNAL,
    CheckpointMark,
    Done,
    Heartbeat,
    InferenceCost,
    InferencePoint,
    JournalPoint,
    Quantiles,
    checkpoint_folder,
    journal_line,
    write_record,
)
from llama.sweep_index import SweepIndex, SweepRun

START_MS = 1_750_000_000_000
DOMAINS = {"code": 0.5, "prose": 0.5}


def make_config(width: int, tokens: int | None, *, seed: int = 0, horizon: int = 2_000_000) -> RunConfig:
    """A WSD run of `width`: a trunk where `tokens` is None, else one that stands alone. One step is 1,024 tokens."""
    model = ModelConfig(
        vocab_size=512,
        d_model=width,
        n_layers=4,
        n_heads=4,
        n_kv_heads=4,
        d_ff=llama_d_ff(width, 16),
        context_length=128,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=False,
    )
    recipe = Recipe(
        name="test",
        peak_lr=0.512 / width,
        batch_sequences=8,
        warmup_tokens=8192,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
        schedule="wsd",
        final_lr_ratio=0.0,
        cooldown_fraction=0.2,
        cooldown_min_steps=10,
        reference_tokens=horizon,
        transfer=None,
        skip_sigma=None,
    )
    data = DataConfig(corpus_digest="c" * 64, weights=DOMAINS, validation_tokens=4096)
    config = RunConfig(
        model=model,
        data=data,
        recipe=recipe,
        tokens=tokens,
        seed=seed,
        dtype="float32",
        compile=False,
        attention_kernel="flash",
        micro_batch_sequences=8,
        activation_checkpointing="none",
    )
    return config.trunk() if tokens is None else config


def make_point(config: RunConfig, step: int, *, validated: bool = False) -> JournalPoint:
    """A point of a surface that falls with size and tokens, the cooldown lower by 3 %, a little noise by (seed, step)."""
    n_params, tokens = count_parameters(config.model).n_params, step * config.batch_tokens
    noise = np.random.default_rng([config.seed, config.model.d_model, step]).normal(0, 0.01)
    start = config.cooldown_start_step
    cooled = 0.0 if start is None or config.steps is None else max(0, step - start) / max(1, config.steps - start)
    loss = (1.2 + 20 * n_params**-0.3 + 60 * tokens**-0.3) * (1 - 0.03 * cooled)
    if validated:
        metrics: dict[str, float | None] = {VAL_LOSS: loss, VAL_BPB: loss / 1.4}
        metrics |= {val_domain_bpb(domain): loss / 1.4 + 0.1 * number for number, domain in enumerate(DOMAINS)}
    else:
        metrics = {
            TRAIN_LOSS: loss + noise,
            GRAD_NORM: 1.0 + noise,
            LEARNING_RATE: config.recipe.peak_lr,
            TOKENS_PER_SECOND: 4e9 / training_flops_per_token(config.model),
            FLOPS: float(tokens) * training_flops_per_token(config.model),
        }
    return JournalPoint(step=step, tokens=tokens, unix_ms=START_MS + 40 * step + 20 * validated, metrics=metrics)


def write_points(folder: Path, points: list[JournalPoint], *, keep_bytes: int | None = None) -> int:
    """Append to the journal, cut to `keep_bytes` first; returns its length."""
    path = folder / JOURNAL
    before = path.read_bytes()[:keep_bytes] if path.exists() else b""
    path.write_bytes(before + "".join(map(journal_line, points)).encode())
    return path.stat().st_size


def write_mark(folder: Path, config: RunConfig, step: int, journal_bytes: int) -> None:
    checkpoint_folder(folder, step).mkdir(parents=True, exist_ok=True)
    mark = CheckpointMark(
        step=step,
        tokens=step * config.batch_tokens,
        journal_bytes=journal_bytes,
        training_seconds=0.04 * step,
        kept=True,
        sha256={"model.safetensors": f"{step:064x}"},
    )
    write_record(checkpoint_folder(folder, step) / COMPLETE, mark)


def write_done(folder: Path, config: RunConfig, step: int, *, reason: str | None = None) -> None:
    """DONE as the trainer writes it: finished, or diverged for a `reason`."""
    final = make_point(config, step, validated=True)
    done = Done(
        outcome="finished" if reason is None else "diverged",
        reason=reason,
        step=step,
        tokens=final.tokens,
        flops=float(final.tokens) * training_flops_per_token(config.model),
        metrics=final.metrics if reason is None else {},
        training_seconds=0.04 * step,
    )
    write_record(folder / DONE, done)


def write_heartbeat(folder: Path, config: RunConfig, step: int, *, unix_ms: int = START_MS, attempt: int = 1) -> None:
    beat = Heartbeat(
        attempt=attempt,
        step=step,
        until_step=step,
        tokens=step * config.batch_tokens,
        loss=None,
        tokens_per_second=None,
        unix_ms=unix_ms,
    )
    write_record(folder / HEARTBEAT, beat)


def begin(storage: Path, config: RunConfig) -> Path:
    folder = storage / "runs" / config.key
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / CONFIG, config)
    return folder


def train(storage: Path, config: RunConfig, *, until_step: int | None = None, every: int | None = None) -> Path:
    """Write the whole folder of a run as if it had been trained, to the end of the run or, a trunk, to `until_step`."""
    folder = begin(storage, config)
    end = config.steps if config.steps is not None else until_step
    assert end is not None
    every = every or config.log_every_steps
    first = (config.fork_step or 0) // every * every + every
    points = [make_point(config, step) for step in sorted({*range(first, end + 1, every), end})]
    size = write_points(folder, [*points, make_point(config, end, validated=True)], keep_bytes=0)
    write_mark(folder, config, end, size)
    write_heartbeat(folder, config, end)
    if not config.is_trunk:
        write_done(folder, config, end)
        write_record(folder / INFERENCE, make_inference(config))
    return folder


def make_inference(config: RunConfig) -> InferenceCost:
    tpot = 2e-4 + 1e-9 * count_parameters(config.model).n_params

    def point(batch: int) -> InferencePoint:
        seconds = tpot * (1 + 0.02 * batch)
        spread = Quantiles(median=seconds, p5=seconds * 0.95, p95=seconds * 1.1)
        return InferencePoint(
            batch=batch,
            ttft_seconds=spread,
            tpot_seconds=spread,
            prefill_tokens_per_second=50 * batch / seconds,
            decode_tokens_per_second=batch / seconds,
        )

    return InferenceCost(
        device="cpu",
        threads=1,
        dtype="float32",
        prompt_tokens=64,
        output_tokens=32,
        repetitions=5,
        weight_bytes=4 * count_parameters(config.model).n_params,
        kv_bytes_per_token=2 * 4 * 4 * config.model.d_model,
        points=[point(2**power) for power in range(7)],
    )


def branch_of(trunk: RunConfig, tokens: int) -> RunConfig:
    """The cooldown branch of `trunk` that ends at `tokens`."""
    recipe = trunk.recipe.model_copy(update={"cooldown_fraction": 0.2, "cooldown_min_steps": 10})
    alone = trunk.model_copy(update={"recipe": recipe, "tokens": tokens})
    return alone.model_copy(update={"parent": trunk.key, "fork_step": alone.cooldown_start_step})


def plan_sweep(
    name: str = "demo",
    widths: tuple[int, ...] = (16, 24, 32, 48, 64),
    budgets: tuple[float, ...] = (1e11, 2e11, 4e11, 8e11, 1.6e12),
) -> tuple[SweepIndex, dict[str, RunConfig]]:
    """Trunks and branches at shared compute budgets, the widest held out; configs by key."""
    runs, configs = [], {}
    for width in widths:
        trunk = make_config(width, None)
        configs[trunk.key] = trunk
        runs.append(
            SweepRun(
                key=trunk.key, name=f"w{width}-trunk-s0", trunk=None, is_trunk=True, flops_budget=None, held_out=False
            )
        )
        for budget in budgets:
            steps = max(40, round(budget / training_flops_per_token(trunk.model) / trunk.batch_tokens))
            branch = branch_of(trunk, steps * trunk.batch_tokens)
            configs[branch.key] = branch
            runs.append(
                SweepRun(
                    key=branch.key,
                    name=f"w{width}-C{budget:.1e}-s0".replace("+", ""),
                    trunk=trunk.key,
                    is_trunk=False,
                    flops_budget=budget,
                    held_out=width == max(widths),
                )
            )
    index = SweepIndex(sweep=name, sweep_id=f"id-{name}", corpus_folder="corpora/test", spec_folder=".", runs=runs)
    return index, configs


def write_corpus(storage: Path, index: SweepIndex) -> CorpusManifest:
    """The manifest of a corpus that these runs might have read, without its shards."""
    domains = {
        name: DomainManifest(
            origin="made up",
            train_documents=100,
            validation_documents=5,
            train_bytes=4_000_000,
            validation_bytes=200_000,
            train_tokens=1_000_000 * number,
            validation_tokens=50_000 * number,
            duplicates=0,
            near_duplicates=0,
            skipped={},
            tokenizer_sample_bytes=1000,
            held_out_grams=10,
            held_out_grams_in_training=0,
            train_sha256="a" * 64,
            validation_sha256="b" * 64,
        )
        for number, name in enumerate(DOMAINS, start=1)
    }
    manifest = CorpusManifest(
        format_version=1,
        digest="c" * 64,
        input_digest="d" * 64,
        vocab_size=512,
        tokenizer_sha256="e" * 64,
        tokenizer_sample_sha256="f" * 64,
        spec=CorpusSpec(domains={name: DomainSpec(stdlib="code", weight=1) for name in DOMAINS}),
        domains=domains,
    )
    folder = storage / index.corpus_folder
    folder.mkdir(parents=True)
    write_record(folder / MANIFEST, manifest)
    return manifest


def train_sweep(storage: Path, index: SweepIndex, configs: dict[str, RunConfig]) -> None:
    """Every run of the sweep, whole."""
    for run in index.runs:
        forks = [configs[other.key].fork_step or 0 for other in index.runs if other.trunk == run.key]
        train(storage, configs[run.key], until_step=max(forks, default=0) if run.is_trunk else None)
