import json
from pathlib import Path

from mlflow.tracking import MlflowClient

from llama.data.corpus import MANIFEST
from sweeps.tracking.datasets import corpus_inputs
from sweeps.tracking.uri import sqlite_uri
from tests.sweeps.tracking.conftest import OpenReplay
from tests.sweeps.tracking.reading import mirrored_runs
from tests.sweeps.tracking.synthetic import plan_sweep, train_sweep, write_corpus

INDEX, CONFIGS = plan_sweep(widths=(16,), budgets=(1e10,))


def test_both_splits_are_described_by_domain(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, INDEX)
    train, validation = corpus_inputs(tmp_path / INDEX.corpus_folder)
    assert (train.name, train.context) == ("code+prose train", "training")
    assert (validation.name, validation.context) == ("code+prose validation", "validation")
    assert manifest.digest.startswith(train.digest)
    profile = json.loads(train.profile)
    assert (profile["tokens"], profile["code/tokens"], profile["prose/tokens"]) == (3_000_000, 1_000_000, 2_000_000)
    assert json.loads(validation.profile)["tokens"] == 150_000
    assert json.loads(train.source)["uri"] == (tmp_path / INDEX.corpus_folder).as_uri()


def test_a_corpus_that_is_not_at_hand_is_not_named(tmp_path: Path) -> None:
    folder = tmp_path / INDEX.corpus_folder
    assert corpus_inputs(folder) == []
    write_corpus(tmp_path, INDEX)
    (folder / MANIFEST).write_text("{}")
    assert corpus_inputs(folder) == []


def test_every_run_and_the_parent_name_their_datasets_once(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    write_corpus(tmp_path, INDEX)
    train_sweep(tmp_path, INDEX, CONFIGS)
    for _ in range(2):
        open_replay(tmp_path, INDEX).advance(live=False)
    client = MlflowClient(sqlite_uri(database))
    for [run] in mirrored_runs(database).values():
        inputs = client.get_run(run["run_uuid"]).inputs.dataset_inputs
        contexts = {used.dataset.name: [(tag.key, tag.value) for tag in used.tags] for used in inputs}
        assert len(inputs) == 2
        assert contexts == {
            "code+prose train": [("mlflow.data.context", "training")],
            "code+prose validation": [("mlflow.data.context", "validation")],
        }
