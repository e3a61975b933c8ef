"""`isoloss export` on real runs: what it writes loads and is the run, and what it can't export it says."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from llama.checkpoint import load_weights
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.data.held_out import validation_batches
from llama.hugging_face import read_model
from llama.metric_names import VAL_LOSS
from llama.model import Llama
from llama.records import CHECKPOINTS, DONE, Done, complete_steps, read_done, write_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun
from llama.trainer import train_segment
from sweeps.storage import Storage
from tests.llama.conftest import tiny_corpus  # noqa: F401
from tests.llama.shapes import branch_of, tiny_model, tiny_run
from tests.sweeps.commands.conftest import Isoloss

FILES = {
    *("README.md", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
}


@dataclass(frozen=True)
class Lab:
    """A storage with a finished run, a trunk with its branch, and a run on its way."""

    storage: Storage
    corpus: Corpus
    alone: RunConfig
    trunk: RunConfig
    branch: RunConfig
    going: RunConfig

    def copy(self, root: Path) -> Lab:
        """To break things in."""
        shutil.copytree(self.storage.root, root)
        return Lab(Storage(root), self.corpus, self.alone, self.trunk, self.branch, self.going)


@pytest.fixture(scope="module")
def lab(tiny_corpus: Corpus) -> Lab:  # noqa: F811
    storage = Storage(tiny_corpus.folder.parent.parent)

    def run(seed: int, **changes: Any) -> RunConfig:
        return tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 0.75, "upper": 0.25}, seed=seed, **changes)

    alone, going = run(0, model=tiny_model(n_kv_heads=2, tied_head=True)), run(2)
    branch = branch_of(run(1))
    trunk = branch.trunk()
    assert branch.fork_step is not None
    for config, until_step in ((alone, 40), (going, 10), (trunk, branch.fork_step), (branch, 40)):
        train_segment(
            config,
            run_folder=storage.run(config.key),
            parent_folder=None if config.parent is None else storage.run(config.parent),
            corpus=tiny_corpus,
            until_step=until_step,
        )
    for sweep, named in (
        ("first", {"alone": alone, "trunk": trunk, "branch": branch, "absent": run(9)}),
        ("second", {"alone": going, "branch": branch}),
    ):
        runs = [
            SweepRun(key=config.key, name=name, trunk=None, is_trunk=config.is_trunk, flops_budget=None, held_out=False)
            for name, config in named.items()
        ]
        storage.sweep(sweep).mkdir(parents=True)
        write_record(
            storage.sweep(sweep) / SWEEP_INDEX,
            SweepIndex(sweep=sweep, sweep_id="0" * 16, corpus_folder="c", spec_folder=".", runs=runs),
        )
    return Lab(storage, tiny_corpus, alone, trunk, branch, going)


def weights_of(lab: Lab, config: RunConfig) -> dict[str, torch.Tensor]:
    model = Llama(config.model)
    load_weights(lab.storage.run(config.key), model)
    return model.state_dict()


def validation_loss(theirs: Any, lab: Lab, config: RunConfig) -> float:
    """What transformers' model loses on the held-out windows, by its own logits."""
    mean = 0.0
    for windows in validation_batches(
        lab.corpus,
        config.data.weights,
        context_length=config.model.context_length,
        validation_tokens=config.data.validation_tokens,
        batch_sequences=16,
    ):
        window_BS = torch.from_numpy(np.concatenate(list(windows)))
        with torch.no_grad():
            logits_BTV = theirs(window_BS[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), window_BS[:, 1:].flatten())
        mean += config.data.weights[windows.domain] * loss.item()
    return mean


def test_an_exported_run_loads_and_is_the_run(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    out = tmp_path / "out"
    ran = isoloss("export", lab.alone.key, "--storage", lab.storage.root, "--out", out)
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert f"AutoModelForCausalLM.from_pretrained('{out}')" in ran.out
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # no file is for its owner alone

    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    text = "a model token law"
    ids = lab.corpus.tokenizer.encode(text).tolist()
    assert tokenizer(text)["input_ids"] == [lab.corpus.tokenizer.bos_id, *ids]
    ours = Llama(lab.alone.model)
    load_weights(lab.storage.run(lab.alone.key), ours)
    tokens_BT = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens_BT).logits, ours(tokens_BT), atol=1e-4, rtol=0)
    done = read_done(lab.storage.run(lab.alone.key))
    assert done is not None
    assert validation_loss(theirs, lab, lab.alone) == pytest.approx(done.metrics[VAL_LOSS], abs=1e-5)
    made = theirs.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(made[0], skip_special_tokens=True).startswith(text)


def test_the_document_and_the_card_say_what_it_is(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = isoloss("export", "branch", "--storage", lab.storage.root, "--out", out, "--json", "--dtype", "bfloat16")
    assert ran.code == 0, ran.err
    done = read_done(lab.storage.run(lab.branch.key))
    assert done is not None
    said = ran.json
    assert (said["folder"], said["run"], said["name"]) == (str(out), lab.branch.key, "branch")
    assert (said["step"], said["tokens"], said["loss"]) == (40, 64 * 40, done.metrics[VAL_LOSS])
    assert (said["dtype"], said["caution"]) == ("bfloat16", None)
    assert said["tokenizer_sha256"] == lab.corpus.tokenizer.digest
    card = (out / "README.md").read_text()
    for words in (
        lab.branch.key,
        lab.corpus.digest,
        lab.corpus.tokenizer.digest,
        f"{said['n_params']:,} parameters",
        "2,560 tokens in 40 steps",
        f"{said['loss']:.4f} nats",
        said["code"],
    ):
        assert words in card
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    for name, weight in weights_of(lab, lab.branch).items():
        assert torch.equal(read_model(out).state_dict()[name], weight.bfloat16().float())


@pytest.mark.parametrize("how", ["folder", "key", "name", "sweep/name"])
def test_a_run_goes_by_its_folder_key_or_name(isoloss: Isoloss, lab: Lab, tmp_path: Path, how: str) -> None:
    names = {
        "folder": lab.storage.run(lab.branch.key),
        "key": lab.branch.key,
        "name": "branch",  # two sweeps have it, but it is one run
        "sweep/name": "second/branch",
    }
    place = [] if how == "folder" else ["--storage", lab.storage.root]
    ran = isoloss("export", names[how], *place, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["run"] == lab.branch.key


def test_the_default_folder_is_in_the_storage(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    there = lab.copy(tmp_path / "storage")
    ran = isoloss("export", there.storage.run(lab.alone.key))
    assert ran.code == 0, ran.err
    assert {path.name for path in (there.storage.root / "exports" / lab.alone.key).iterdir()} == FILES


def test_a_trunk_and_a_run_on_its_way_come_with_a_caution(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    for config, words in (
        (lab.trunk, "a trunk"),
        (lab.going, "not finished: these are the weights after step 10 of 40"),
    ):
        out = tmp_path / config.key
        ran = isoloss("export", config.key, "--storage", lab.storage.root, "--out", out, "--json")
        assert ran.code == 0, ran.err
        assert ran.json["loss"] is None
        assert ran.json["caution"].startswith(words)
        assert words in ran.err
        assert f"**Caution:** {words}" in (out / "README.md").read_text()


def test_a_damaged_last_checkpoint_is_passed_over_and_told(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    there = lab.copy(tmp_path / "storage")
    trained = there.storage.run(lab.going.key)
    train_segment(lab.going, run_folder=trained, corpus=lab.corpus, until_step=40)
    assert complete_steps(trained) == [10, 40]
    (trained / CHECKPOINTS / "step-00000040" / "model.safetensors").write_bytes(b"damaged")
    ran = isoloss("export", trained, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["step"] == 10
    assert "last checkpoint is damaged: these are the weights after step 10 of 40" in ran.json["caution"]
    assert ran.json["loss"] is None
    shutil.rmtree(trained / CHECKPOINTS)
    ran = isoloss("export", trained, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "holds no complete checkpoint" in ran.err


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("nobody", "no run 'nobody' in"),
        ("first/nobody", "no run 'first/nobody' in"),
        ("brunch", "; did you mean 'branch'?"),
        ("../runs", "no run '../runs' in"),
        ("", "no run '' in"),
        ("alone", "sweeps first, second each have a run alone: say which, as first/alone"),
        ("absent", "run absent has not begun: launch first first"),
    ],
)
def test_a_run_that_is_not_there_is_named(isoloss: Isoloss, lab: Lab, tmp_path: Path, run: str, words: str) -> None:
    ran = isoloss("export", run, "--storage", lab.storage.root, "--out", tmp_path / "out")
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "out").exists()


def test_a_diverged_run_is_refused(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    there = lab.copy(tmp_path / "storage")
    done = Done(
        outcome="diverged", reason="loss nan at step 3", step=3, tokens=192, flops=1.0, metrics={}, training_seconds=1.0
    )
    write_record(there.storage.run(lab.going.key) / DONE, done)
    ran = isoloss("export", lab.going.key, "--storage", there.storage.root)
    assert ran.code == 2
    assert f"run {lab.going.key} diverged (loss nan at step 3)" in ran.err


def test_a_corpus_that_is_gone_is_named(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    there = lab.copy(tmp_path / "storage")
    shutil.rmtree(there.storage.root / "corpora")
    ran = isoloss("export", lab.alone.key, "--storage", there.storage.root)
    assert ran.code == 2
    assert f"no whole corpus with digest {lab.corpus.digest[:12]}" in ran.err


def test_nothing_is_overwritten(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    kept = tmp_path / "full" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for out, words in (
        (kept.parent, "is not empty: remove it"),
        (kept, "is a file"),
        (kept / "out", "can't be written"),
    ):
        ran = isoloss("export", "branch", "--storage", lab.storage.root, "--out", out)
        assert ran.code == 2
        assert words in ran.err
    assert kept.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    assert isoloss("export", "branch", "--storage", lab.storage.root, "--out", tmp_path / "empty").code == 0
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_a_disk_that_fills_leaves_nothing(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    full = OSError(28, os.strerror(28))
    with patch("sweeps.export.write_tokenizer", side_effect=full):
        ran = isoloss("export", "branch", "--storage", lab.storage.root, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{tmp_path / 'out'} can't be written: No space left on device" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_there_is_not_is_refused(isoloss: Isoloss, lab: Lab, tmp_path: Path) -> None:
    ran = isoloss("export", "branch", "--storage", lab.storage.root, "--out", tmp_path / "out", "--dtype", "float16")
    assert ran.code == 2
    assert "float16" in ran.err
