"""A compiled model computes the same; its cache is the user's own."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama import training_state
from llama.activation_checkpointing import apply_activation_checkpointing
from llama.compilation import WHOLE_MODEL_LAYERS, cache_folder, compile_mode, compile_model
from llama.evaluation import validate
from llama.loss import next_token_loss
from llama.model import Llama
from llama.training_state import TrainingState
from tests.llama.attempts import assert_same_bytes
from tests.llama.shapes import tiny_model, tiny_run

CPU = torch.device("cpu")

#: Trains a run to a step, and leaves there by a preemption where that is not its end.
ATTEMPT = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path
from llama.config import RunConfig
from llama.data.corpus import open_corpus
from llama.errors import Preempted
from llama.trainer import train_segment
from llama.training_state import TrainingState

config, folder, corpus, until_step = RunConfig.model_validate_json(sys.argv[1]), *map(Path, sys.argv[2:4]), int(sys.argv[4])
update = TrainingState.update
def update_and_leave(state, *arguments, **options):
    result = update(state, *arguments, **options)
    if state.step == until_step < config.steps:
        os.kill(os.getpid(), signal.SIGTERM)
    return result
TrainingState.update = update_and_leave
with suppress(Preempted):
    train_segment(config, run_folder=folder, corpus=open_corpus(corpus), until_step=config.steps)
"""


def make_model(n_layers: int = 2) -> Llama:
    model = Llama(tiny_model().model_copy(update={"n_layers": n_layers}))
    model.initialise(torch.Generator().manual_seed(0))
    return model


class Windows(list):
    """Held-out windows of one domain, one batch."""

    domain = "text"

    def __init__(self, tokens_BS: torch.Tensor) -> None:
        super().__init__([tokens_BS.numpy()])


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def gradients(model: Llama, tokens_BS: torch.Tensor) -> dict[str, torch.Tensor]:
    next_token_loss(model, tokens_BS[:, :-1], tokens_BS[:, 1:]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture
def tokens_BS() -> torch.Tensor:
    return torch.randint(tiny_model().vocab_size, (4, 17), generator=torch.Generator().manual_seed(1))


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """Trace as ever, and hand the graphs to another compiler than inductor, which takes half a minute."""
    compile = torch.compile
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "isoloss-unused"))
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile(f, dynamic=options["dynamic"], backend=backend))


@pytest.mark.slow
def test_inductors_gradients_are_those_of_the_eager_model(tokens_BS, monkeypatch, tmp_path):
    """Into a cache that was empty."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = make_model()
    compile_model(compiled, CPU, micro_batches=1)
    assert_same(gradients(compiled, tokens_BS), gradients(make_model(), tokens_BS))
    assert any(cache_folder().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"dtype": "bfloat16", "activation_checkpointing": "selective"}], ids=["float32", "bfloat16"]
)
def test_a_compiled_run_resumes_to_the_same_bytes(tiny_corpus, tmp_path, monkeypatch, changes):
    """In other processes, one of them with an empty cache."""
    config = tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 1.0}, compile=True, **changes)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, cache, until_step in ((whole, "one", 40), (cut, "one", 16), (cut, "another", 40)):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / cache)}
        arguments = [config.model_dump_json(), str(folder), str(tiny_corpus.folder), str(until_step)]
        subprocess.run([sys.executable, "-c", ATTEMPT, *arguments], env=environment, check=True)
    assert_same_bytes(whole, cut, config)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_what_is_traced_has_the_eager_models_gradients(tokens_BS, checkpointing, monkeypatch):
    use_backend(monkeypatch, "aot_eager")
    compiled = make_model()
    apply_activation_checkpointing(compiled, checkpointing)
    compile_model(compiled, CPU, micro_batches=1)
    assert_same(gradients(compiled, tokens_BS), gradients(make_model(), tokens_BS))


def test_shallow_models_are_one_graph_and_deep_ones_a_graph_a_block(tokens_BS, monkeypatch):
    sizes = {}
    for n_layers in (WHOLE_MODEL_LAYERS, WHOLE_MODEL_LAYERS + 1):
        nodes = sizes[n_layers] = []

        def backend(graph, inputs, nodes=nodes):
            nodes.append(len(graph.graph.nodes))
            return graph.forward

        use_backend(monkeypatch, backend)
        model = make_model(n_layers)
        compile_model(model, CPU, micro_batches=1)
        gradients(model, tokens_BS)
        monkeypatch.undo()
    (shallow,), (deep,) = sizes.values()
    assert shallow > WHOLE_MODEL_LAYERS * deep / 2, "all blocks in one graph, against one block for all"


def test_small_models_on_a_gpu_replay_their_launches_where_a_step_is_one_batch():
    assert compile_mode("cuda", 1_000_000, 1) == "reduce-overhead"
    assert {compile_mode("cuda", 1_000_000, 2), compile_mode("cuda", 10**9, 1), compile_mode("cpu", 1_000, 1)} == {
        "default"
    }


def test_a_runs_state_says_how_many_micro_batches_a_step_adds_up(monkeypatch):
    found = []
    monkeypatch.setattr(
        training_state, "compile_model", lambda model, device, *, micro_batches: found.append(micro_batches)
    )
    TrainingState(tiny_run(compile=True, micro_batch_sequences=1), CPU)
    assert found == [tiny_run().recipe.batch_sequences]


def test_validation_is_eager(tokens_BS, monkeypatch):
    """Other shapes than training's would be compiled again."""
    traced = []
    use_backend(monkeypatch, lambda graph, inputs: traced.append(graph) or graph.forward)
    model, plain = make_model(), make_model()
    compile_model(model, CPU, micro_batches=1)
    held_out = [Windows(tokens_BS)]
    token_bytes = np.ones(model.config.vocab_size, dtype=np.int64)
    found = validate(model, held_out, {"text": 1.0}, token_bytes, CPU)
    assert not traced
    assert found == validate(plain, held_out, {"text": 1.0}, token_bytes, CPU)


def test_the_cache_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "isoloss" / "inductor").mkdir(parents=True, mode=0o777)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
