"""`isoloss export`: a run as a model that Hugging Face's tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeps.commands.options import JsonOption, StorageOption
from sweeps.commands.terminal import note, print_json, say


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, its key, or its name in a sweep (isoloss status).")
    ],
    storage: StorageOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder for the model (default: <storage>/exports/<key>).")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Of the weights; float32 is what was trained.")
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """A run as a Hugging Face LlamaForCausalLM with its tokenizer, for transformers, vLLM and llama.cpp's converter."""
    from sweeps.export import export_run
    from sweeps.storage import open_run, open_storage

    exported = export_run(open_run(run, open_storage(storage)), out, dtype=dtype)
    if exported.caution is not None:
        note(f"caution: {exported.name} is {exported.caution}")
    if as_json:
        print_json(exported.model_dump(mode="json"))
        return
    loss = "" if exported.loss is None else f", validation loss {exported.loss:.4f}"
    say(f"{exported.name}: {exported.n_params:,} parameters, {exported.tokens:,} tokens{loss}")
    say(f"written to {exported.folder} ({exported.bytes / 1e6:,.1f} MB, {exported.dtype})")
    say("load it with:")
    say(f"    model = transformers.AutoModelForCausalLM.from_pretrained({exported.folder!r})")
    say(f"    tokenizer = transformers.AutoTokenizer.from_pretrained({exported.folder!r})")
