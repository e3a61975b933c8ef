"""The example of docs/trainer-command.md: a Hugging Face LLaMA, trained on our corpus and taken up from its own checkpoint."""

import math
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from llama.config import CommandTrainer, RunConfig
from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec
from llama.errors import Preempted
from llama.records import Done, read_done, read_journal
from sweeps.trainer_command import train as train_by_command_module
from sweeps.trainer_command.train import train_by_command
from tests.llama.conftest import WORDS
from tests.llama.shapes import tiny_run

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "hf_trainer.py"
STEPS = 200

pytest.importorskip("transformers", reason="needs the hf extra")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One domain of made-up text, of few words: there is something to learn."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    for number in range(60):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=200)))
    spec = CorpusSpec(
        domains={"plain": DomainSpec(weight=1.0, files=["*.txt"])},
        tokenizer=TokenizerSpec(vocab_size=300, sample_bytes=50_000),
        held_out_fraction=0.2,
    )
    return build_corpus(spec, tmp_path_factory.mktemp("storage"), base=folder, report=lambda line: None)


def train(corpus: Corpus, folder: Path, *, attempt: int = 1) -> Done:
    config = RunConfig.model_validate(
        tiny_run(corpus_digest=corpus.digest, weights={"plain": 1.0}, tokens=64 * STEPS).model_dump()
        | {"trainer": CommandTrainer(command=["python", str(EXAMPLE)], version="1")}
    )
    train_by_command(
        config,
        run_folder=folder,
        corpus_folder=corpus.folder,
        cwd=EXAMPLE.parent,
        attempt=attempt,
        threads=1,
        gpu_share=0.0,
    )
    done = read_done(folder)
    assert done is not None
    return done


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(corpus, folder), folder


def test_it_learns(whole: tuple[Done, Path]) -> None:
    done, folder = whole
    losses = [loss for point in read_journal(folder) if (loss := point.metrics.get("train/loss")) is not None]
    last_losses = sum(losses[-5:]) / 5
    assert losses[0] == pytest.approx(math.log(300), rel=0.2)
    assert last_losses < 0.8 * losses[0]
    assert done.metrics["val/loss"] == pytest.approx(last_losses, rel=0.5)
    assert (done.step, done.tokens) == (STEPS, 64 * STEPS)
    assert done.metrics["data/epochs/plain"] > 0


@pytest.mark.slow
def test_asked_to_leave_it_goes_on_to_the_same_loss(
    corpus: Corpus, whole: tuple[Done, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_by_command_module, "WATCH_SECONDS", 0.01)  # half a second is longer than these steps take
    folder = tmp_path / "run"

    def ask() -> None:
        while not (folder / "trainer" / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Preempted):
        train(corpus, folder)
    asking.join()
    assert train(corpus, folder, attempt=2).metrics == whole[0].metrics
    ours, theirs = ([(point.step, point.metrics) for point in read_journal(where)] for where in (folder, whole[1]))
    assert ours == theirs
