"""`isoloss export`: a run's weights and tokenizer as a folder that Hugging Face's tools load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from llama.accounting import count_parameters
from llama.atomic_files import sync_folder
from llama.checkpoint import load_weights
from llama.config import DType
from llama.data.corpus import MANIFEST, Corpus, open_corpus
from llama.errors import UserError
from llama.hugging_face import write_model
from llama.hugging_face_tokenizer import write_tokenizer
from llama.metric_names import VAL_LOSS
from llama.model import Llama
from llama.records import CheckpointMark, Done, Record, read_done
from sweeps.storage import RunFolder, Storage
from sweeps.tracking.code import code_tags

CARD = "README.md"


class Exported(Record):
    """What was written, and what the weights are."""

    folder: str
    run: str
    """The run's key."""
    name: str
    step: int
    tokens: int
    """That the weights were trained on."""
    n_params: int
    loss: float | None
    """Final validation loss, nats a token; None where these are not a finished run's weights."""
    caution: str | None
    """Why they are not, where they are not."""
    dtype: DType
    bytes: int
    """Of all files but the card."""
    tokenizer_sha256: str
    """Of the tokenizer's model file in the corpus."""
    code: str
    """The isoloss that wrote the folder."""


def export_run(run: RunFolder, out: Path | None, *, dtype: DType) -> Exported:
    """Write the run's newest good checkpoint as a LlamaForCausalLM with its tokenizer and a card, into
    `<storage>/exports/<key>` unless `out` says otherwise. The folder appears whole or not at all. A trunk, or a run on its
    way, is exported with a caution.

    Raises:
        UserError: a command trained the run, it diverged or has no checkpoint, its corpus is gone, or the folder is taken or
            can't be written.
    """
    if run.config.trainer is not None:
        trained_by = " ".join(run.config.trainer.command)
        raise UserError(
            f"run {run.name} was trained by `{trained_by}`, whose checkpoints are its own: export reads isoloss's"
        )
    done = read_done(run.folder)
    if done is not None and done.outcome == "diverged":
        raise UserError(f"run {run.name} diverged ({done.reason}): there is no model to export")
    folder = (out.expanduser() if out else run.storage.root / "exports" / run.config.key).resolve()
    _require_free(folder)
    tokenizer = _corpus(run.storage, run.config.data.corpus_digest).tokenizer
    model = Llama(run.config.model)
    mark = load_weights(run.folder, model)
    caution = _caution(run, done, mark)
    with _appearing_whole(folder) as partial:
        write_model(model, partial, dtype=dtype, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
        write_tokenizer(tokenizer, partial, context_length=run.config.model.context_length)
        exported = Exported(
            folder=str(folder),
            run=run.config.key,
            name=run.name,
            step=mark.step,
            tokens=mark.tokens,
            n_params=count_parameters(run.config.model).n_params,
            loss=None if done is None or caution else done.metrics.get(VAL_LOSS),
            caution=caution,
            dtype=dtype,
            bytes=sum(path.stat().st_size for path in partial.iterdir()),
            tokenizer_sha256=tokenizer.digest,
            code=" ".join(value for name, value in code_tags().items() if name.startswith("code.")),
        )
        (partial / CARD).write_text(_card(exported, run), encoding="utf-8")
    return exported


def _caution(run: RunFolder, done: Done | None, mark: CheckpointMark) -> str | None:
    if run.config.is_trunk:
        return "a trunk, whose learning rate has not come down: its branches are the finished models"
    if done is None:
        return f"not finished: these are the weights after step {mark.step:,} of {run.config.steps:,}"
    if mark.step < done.step:
        return f"the last checkpoint is damaged: these are the weights after step {mark.step:,} of {done.step:,}"
    return None


def _corpus(storage: Storage, digest: str) -> Corpus:
    """The corpus that a run was trained on, for its tokenizer."""
    for manifest in sorted(storage.root.glob(f"corpora/*/{MANIFEST}")):
        try:
            corpus = open_corpus(manifest.parent)
        except UserError:
            continue  # another format or a damaged one; if it is the one, the message below says what is missing
        if corpus.digest == digest:
            return corpus
    raise UserError(
        f"{storage.root / 'corpora'} has no whole corpus with digest {digest[:12]}, whose tokenizer the run needs: put it "
        "back, or launch the sweep again to build it"
    )


def _require_free(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: remove it, or name another folder with --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder with --out")


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when all in it is on disk; nothing is left where that fails."""
    partial = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        partial.rename(folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} can't be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _card(exported: Exported, run: RunFolder) -> str:
    model, recipe, data = run.config.model, run.config.recipe, run.config.data
    loss = "" if exported.loss is None else f"| validation loss | {exported.loss:.4f} nats a token |\n"
    caution = "" if exported.caution is None else f"\n**Caution:** {exported.caution}.\n"
    mixture = ", ".join(f"{name} {weight:.3g}" for name, weight in data.weights.items())
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
---

# {exported.name}

A LLaMA with {exported.n_params:,} parameters, trained by isoloss on {exported.tokens:,} tokens.
{caution}
| | |
|---|---|
| run | {exported.run} |
| shape | width {model.d_model}, {model.n_layers} layers, {model.n_heads} heads, {model.n_kv_heads} key-value heads, \
feed-forward {model.d_ff} |
| parameters | {exported.n_params:,} ({count_parameters(model).n_params_non_embedding:,} without embedding and head) |
| context | {model.context_length:,} tokens |
| trained on | {exported.tokens:,} tokens in {exported.step:,} steps |
{loss}| data | {mixture}; corpus {data.corpus_digest} |
| recipe | {recipe.name}, peak learning rate {recipe.peak_lr:.4g}, {run.config.batch_tokens:,} tokens a batch, \
{recipe.schedule}, seed {run.config.seed} |
| computed in | {run.config.dtype}; weights here are {exported.dtype} |
| tokenizer | {model.vocab_size:,} tokens; SHA-256 {exported.tokenizer_sha256} |
| exported by | isoloss {exported.code} |

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = "."  # where this file lies
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = tokenizer("Once", return_tensors="pt")
    print(tokenizer.decode(model.generate(**tokens, max_new_tokens=20)[0]))

It is a base model: it goes on with a text. Each training document began with `<s>`, which the tokenizer puts first, and none
ended with `</s>`: a document ends where the model begins another, so generation stops at either.
"""
