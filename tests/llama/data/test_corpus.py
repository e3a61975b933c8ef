from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llama.data.corpus import MANIFEST, Corpus, open_corpus
from llama.errors import UserError


class TestDamage:
    """What is not a finished, undamaged corpus is refused when it is opened."""

    @pytest.fixture
    def folder(self, small_corpus: Corpus, tmp_path: Path) -> Path:
        return shutil.copytree(small_corpus.folder, tmp_path / "copy")

    def test_a_copy_opens(self, folder: Path, small_corpus: Corpus) -> None:
        assert open_corpus(folder, verify=True).digest == small_corpus.digest

    @pytest.mark.parametrize("name", ["left.train.bin", "right.val.bin"])
    def test_shards_absent_short_or_swapped(self, folder: Path, name: str) -> None:
        shard = folder / name
        data = shard.read_bytes()
        shard.write_bytes(data[:-2])
        with pytest.raises(UserError, match=f"{name} holds"):
            open_corpus(folder)
        shard.write_bytes((folder / "left.val.bin").read_bytes())
        with pytest.raises(UserError, match=f"{name} is not the shard"):
            open_corpus(folder)
        shard.unlink()
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            open_corpus(folder)

    def test_changed_tokens_are_found_by_verifying(self, folder: Path) -> None:
        data = bytearray((folder / "left.train.bin").read_bytes())
        data[-1] ^= 1
        (folder / "left.train.bin").write_bytes(data)
        open_corpus(folder)
        with pytest.raises(UserError, match=r"left\.train\.bin is damaged"):
            open_corpus(folder, verify=True)

    def test_another_tokenizer_is_refused(self, folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(b"x")
        with pytest.raises(UserError, match="is not the one that was built"):
            open_corpus(folder, verify=True)

    def test_a_manifest_of_another_kind(self, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "digest": "0" * 64}))
        with pytest.raises(UserError, match="its digest does not match"):
            open_corpus(folder, verify=True)
        (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
        with pytest.raises(UserError, match="has format version 99"):
            open_corpus(folder)
        (folder / MANIFEST).write_text("{}")
        with pytest.raises(UserError, match="does not hold a CorpusManifest"):
            open_corpus(folder)
        (folder / MANIFEST).unlink()
        with pytest.raises(UserError, match="holds no finished corpus"):
            open_corpus(folder)

    def test_an_unknown_domain_is_named(self, small_corpus: Corpus) -> None:
        with pytest.raises(UserError, match="no domain 'middle'; it has left, right"):
            small_corpus.train_stream("middle")
