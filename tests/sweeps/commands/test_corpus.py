"""`isoloss corpus build`: what it reads, refuses and prints. Ray is started by tests/cluster/test_corpus_build.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus
from llama.data.sources import CorpusSpec
from tests.llama.data.conftest import invented_text, small_spec, write_jsonl
from tests.sweeps.commands.conftest import Isoloss
from tests.sweeps.examples import SWEEP


@pytest.fixture
def spec(tmp_path: Path) -> CorpusSpec:
    write_jsonl(tmp_path / "d.jsonl", [invented_text(n, 60) for n in range(100)])
    (tmp_path / "corpus.yaml").write_text(
        "domains:\n  d: {weight: 1, files: [d.jsonl]}\n"
        "tokenizer: {vocab_size: 300, sample_bytes: 50_000}\nheld_out_fraction: 0.2\n"
    )
    return small_spec(d={"weight": 1.0, "files": ["d.jsonl"]})  # type: ignore[arg-type]


@pytest.fixture
def built(tmp_path: Path, spec: CorpusSpec) -> Corpus:
    return build_corpus(spec, tmp_path / "storage", base=tmp_path, report=lambda line: None)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ray_tasks.RayTasks.open", lambda self: pytest.fail("nothing is left to do"))


def test_a_finished_corpus_is_taken_up(isoloss: Isoloss, tmp_path: Path, built: Corpus) -> None:
    ran = isoloss("corpus", "build", tmp_path / "corpus.yaml", "--storage", tmp_path / "storage", "--json")
    assert ran.code == 0, ran.err
    document = ran.json
    assert (document.pop("folder"), document.pop("seconds") >= 0) == (str(built.folder), True)
    assert document == built.manifest.model_dump(mode="json")
    said = isoloss("corpus", "build", tmp_path / "corpus.yaml", "--storage", tmp_path / "storage").out
    assert built.digest[:12] in said
    assert f"{built.domains['d'].train_documents}" in said


def test_a_sweep_will_do(isoloss: Isoloss, tmp_path: Path, spec: CorpusSpec, built: Corpus) -> None:
    sweep = {**SWEEP, "corpus": spec.model_dump(mode="json", exclude_none=True)}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    ran = isoloss("corpus", "build", tmp_path / "sweep.yaml", "--storage", tmp_path / "storage", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["digest"] == built.digest


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.yaml",
            "domains:\n  d: {wieght: 1, stdlib: code}\n",
            "c.yaml, line 2: domains.d.wieght: unknown key; did you",
        ),
        ("c.yaml", "domains: {d: {weight: 1}}\n", "exactly one of stdlib, files and dataset"),
        ("c.yaml", "domains: [\n", "c.yaml, line 2: not valid YAML"),
        ("c.yaml", "corpus: {}\n", "c.yaml, line 1: corpus.domains: this key is missing"),
        ("c.yaml", "domains: {d: {weight: 1, files: [absent]}}\n", "'absent' matches no file of .txt"),
        ("c.txt", "domains:\n", "c.txt: a file ending in .yaml or .yml was expected"),
        ("c.yaml", None, "c.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_named(isoloss: Isoloss, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    ran = isoloss("corpus", "build", tmp_path / name, "--storage", tmp_path / "storage")
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
