"""Attempts at a run in processes of their own, to be stopped from outside. They fork from a server that has torch loaded."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from llama.checkpoint import OPTIMIZER_FILE, load_weights
from llama.config import RunConfig
from llama.data.corpus import Corpus, open_corpus
from llama.errors import Preempted, UserError
from llama.metric_names import MFU, TOKENS_PER_SECOND
from llama.model import Llama
from llama.preemption import Notice
from llama.records import checkpoint_folder, complete_steps, read_journal
from llama.trainer import train_segment
from llama.training_state import TrainingState
from llama.training_step import StepResult

PREEMPTED, REFUSED = 75, 2

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.llama.attempts"])


def start_attempt(config: RunConfig, folder: Path, corpus: Corpus, **options: Any) -> BaseProcess:
    """Train the run to its end in a process of its own. It ends with exit code 0, PREEMPTED or REFUSED."""
    arguments = (config.model_dump_json(), folder, corpus.folder, options)
    process = _context.Process(target=_attempt, args=arguments, daemon=True)
    process.start()
    return process


def _attempt(config_json: str, folder: Path, corpus_folder: Path, options: dict[str, Any]) -> None:
    config = RunConfig.model_validate_json(config_json)
    if "step_seconds" in options:
        _note_steps(folder, options.pop("step_seconds"))
    if "largest_file_bytes" in options:
        largest = options.pop("largest_file_bytes")
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        train_segment(
            config, run_folder=folder, corpus=open_corpus(corpus_folder), until_step=config.steps or 0, **options
        )
    except Preempted:
        sys.exit(PREEMPTED)
    except UserError as error:
        folder.with_suffix(".message").write_text(str(error))
        sys.exit(REFUSED)


def _note_steps(folder: Path, step_seconds: float) -> None:
    """Slow the steps down, and note beside the folder how many were made and at which the notice came."""
    update, receive = TrainingState.update, Notice._receive
    made = 0

    def noting_update(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        nonlocal made
        result = update(state, *arguments, **options)
        made = state.step
        folder.with_suffix(".made").write_text(str(made))
        time.sleep(step_seconds)
        return result

    def noting_receive(notice: Notice, *arguments: Any) -> None:
        folder.with_suffix(".noticed").write_text(str(made))
        receive(notice, *arguments)

    TrainingState.update = noting_update  # type: ignore[method-assign]
    Notice._receive = noting_receive  # type: ignore[method-assign]


def wait_until(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Spin until it holds; the process must live that long."""
    while not condition():
        assert process.is_alive(), f"the attempt ended too early, with exit code {process.exitcode}"
        time.sleep(0.001)


def newest_step(folder: Path) -> int:
    with suppress(FileNotFoundError):  # a checkpoint that is dropped meanwhile
        return max(complete_steps(folder), default=0)
    return 0


def final_weights(folder: Path, config: RunConfig) -> dict[str, torch.Tensor]:
    model = Llama(config.model)
    load_weights(folder, model)
    return model.state_dict()


def journalled(folder: Path) -> list[dict[str, float | None]]:
    """What the journal says that doesn't depend on when and where it was written."""

    def of_the_moment(name: str) -> bool:
        return name in (TOKENS_PER_SECOND, MFU) or name.startswith("system/")

    return [
        {"step": point.step, **{name: value for name, value in point.metrics.items() if not of_the_moment(name)}}
        for point in read_journal(folder)
    ]


def assert_same_bytes(whole: Path, cut: Path, config: RunConfig) -> None:
    """The final checkpoints' weights as they lie on the disk, every bit of the optimiser, and the journals."""
    assert config.steps is not None
    a, b = (checkpoint_folder(folder, config.steps) for folder in (whole, cut))
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert _tensor_bytes(a / OPTIMIZER_FILE) == _tensor_bytes(b / OPTIMIZER_FILE)
    assert journalled(whole) == journalled(cut)


def _tensor_bytes(path: Path) -> bytes:
    """A safetensors file without its header, which here says how long the run trained."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]
