"""What a worker process does: the functions that `cluster` is handed as tasks. Each is importable and takes plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.mps import PIPE_DIRECTORY
from llama.config import DType, ModelConfig, RunConfig
from llama.records import INFERENCE, InferenceProtocol, write_record
from llama.sharing import SharedSpeed


def train(
    *,
    attempt: int,
    storage: str,
    config: str,
    corpus_folder: str,
    until_step: int,
    threads: int,
    gpu_share: float,
    spec_folder: str,
) -> dict[str, float]:
    """Train one segment of the run whose RunConfig is in `config` (JSON). Returns the attempt's own steps and seconds.
    `spec_folder` is where a command that trains is run.
    """
    _keep_to_cpu(gpu_share == 0)
    run = RunConfig.model_validate_json(config)
    runs = Path(storage) / "runs"
    if run.trainer is not None:
        from sweeps.trainer_command.train import train_by_command

        return train_by_command(
            run,
            run_folder=runs / run.key,
            corpus_folder=Path(storage) / corpus_folder,
            cwd=Path(spec_folder),
            attempt=attempt,
            threads=threads,
            gpu_share=gpu_share,
        )
    from llama.data.corpus import open_corpus
    from llama.trainer import train_segment

    result = train_segment(
        run,
        run_folder=runs / run.key,
        parent_folder=None if run.parent is None else runs / run.parent,
        corpus=open_corpus(Path(storage) / corpus_folder),
        until_step=until_step,
        attempt=attempt,
        threads=threads,
        gpu_share=gpu_share,
    )
    return {
        "trained_steps": result.trained_steps,
        "trained_tokens": result.trained_tokens,
        "training_seconds": result.training_seconds,
    }


def describe_machine(*, attempt: int) -> dict[str, Any]:
    """This worker's `sweeps.hardware.machine.Machine`, as its fields."""
    from sweeps.hardware.machine import this_machine

    return this_machine()._asdict()


def measure_speed(
    *,
    attempt: int,
    shapes: Mapping[str, str],
    seconds: float,
    threads: int,
    gpu_share: float,
) -> dict[str, float]:
    """Training tokens a second of each shape, alone on this machine. `shapes` are RunConfigs as JSON, by name."""
    _keep_to_cpu(gpu_share == 0)
    from llama.speed import measure_training_speed

    return {
        name: measure_training_speed(RunConfig.model_validate_json(config), seconds=seconds, threads=threads)
        for name, config in shapes.items()
    }


def measure_packing(
    *, attempt: int, shapes: Sequence[str], seconds: float, cores: int, threads: int | None
) -> dict[str, Any]:
    """For each shape (a RunConfig as JSON) what 1, 2, 4 ... runs of it do side by side on this worker's device: `speeds`, as
    the fields of `llama.sharing.SharedSpeed`, and whether they ran `through_mps`. `threads` of each run go with a GPU; on a
    CPU, where it is None, the runs share the cores.
    """
    _keep_to_cpu(threads is None)
    from llama.sharing import measure_sharing
    from sweeps.hardware.packing import search

    found = []
    for shape in shapes:
        config = RunConfig.model_validate_json(shape)

        def measure(runs: int, config: RunConfig = config) -> SharedSpeed:
            of_each = threads or max(1, cores // runs)
            return measure_sharing(config, runs, seconds=seconds, threads=of_each, use_gpu=threads is not None)

        found.append([speed.model_dump() for speed in search(measure, at_most=max(1, cores // (threads or 1)))])
    return {"speeds": found, "through_mps": threads is not None and PIPE_DIRECTORY in os.environ}


def measure_inference(
    *,
    attempt: int,
    storage: str,
    shapes: Mapping[str, str],
    run_keys: Mapping[str, list[str]],
    protocol: str,
    dtype: DType,
    threads: int,
    gpu_share: float,
) -> dict[str, str]:
    """Measure the serving cost of each shape (ModelConfig as JSON, by name) and write it into the folder of every run that
    has the shape. Returns each InferenceCost as JSON.
    """
    _keep_to_cpu(gpu_share == 0)
    from llama.inference_cost import measure_inference

    models = {name: ModelConfig.model_validate_json(model) for name, model in shapes.items()}
    costs = measure_inference(models, InferenceProtocol.model_validate_json(protocol), dtype=dtype, threads=threads)
    for name, keys in run_keys.items():
        for key in keys:
            write_record(Path(storage) / "runs" / key / INFERENCE, costs[name])
    return {name: cost.model_dump_json() for name, cost in costs.items()}


def _keep_to_cpu(wanted: bool) -> None:
    """Ray leaves a node's GPUs visible to tasks that were given none; torch looks when it first uses one."""
    if wanted:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
