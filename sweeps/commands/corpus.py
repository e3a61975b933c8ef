"""`isoloss corpus build`: a tokenizer and token shards from text, on every core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from llama.errors import UserError
from sweeps.commands.options import AddressOption, JsonOption, StorageOption
from sweeps.commands.terminal import note, print_json, print_table, say

if TYPE_CHECKING:
    from llama.data.building.progress import Watch
    from llama.data.corpus import Corpus
    from llama.data.sources import CorpusSpec
    from sweeps.storage import Storage

app = typer.Typer(help="Corpora: token shards and their tokenizer.", no_args_is_help=True)


@app.callback()
def corpus() -> None:
    """Corpora: token shards and their tokenizer."""


@app.command()
def build(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS.yaml", help="What the corpus is made of, or a sweep, for its corpus.")
    ],
    storage: StorageOption = None,
    address: AddressOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Cores to take (default: all of them).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tokenize text into a corpus, on every core. The same command goes on after any interruption."""
    from cluster.ray_tasks import RayTasks, WorkLost
    from llama.data.building.build import build_corpus
    from sweeps.storage import open_storage

    place = open_storage(storage)
    found = _find(corpus, place)
    found.storage.require_writable()
    started = time.monotonic()
    try:
        with (
            RayTasks(address=address, workers=workers, preload=["llama.data.building.stages"]) as execute,
            _progress() as watch,
        ):
            made = build_corpus(
                found.spec, found.storage.root, base=found.base, report=note, watch=watch, execute=execute
            )
    except WorkLost as error:
        note(f"isoloss: {error}\nwhat was finished is kept: the same command goes on from there")
        raise typer.Exit(1) from None
    _show(made, time.monotonic() - started, as_json=as_json)


class _Found(NamedTuple):
    """What an argument means."""

    spec: CorpusSpec
    base: Path
    """Where its relative paths start."""
    storage: Storage


def _find(path: Path, storage: Storage) -> _Found:
    """Read a corpus' YAML or a sweep's: one with a key `corpus`."""
    from llama.data.sources import CorpusSpec
    from sweeps.designs.spec import load_sweep
    from sweeps.storage import YAML_SUFFIXES, find_source
    from sweeps.yaml_lines import load_record, top_level_keys

    if path.suffix not in YAML_SUFFIXES:
        raise UserError(f"{path}: a file ending in {' or '.join(YAML_SUFFIXES)} was expected, with the corpus' domains")
    if "corpus" in top_level_keys(path):
        source = find_source(str(path), storage)
        return _Found(load_sweep(source.yaml_path).corpus, source.spec_folder, source.storage)
    return _Found(load_record(path, CorpusSpec), path.resolve().parent, storage)


@contextmanager
def _progress() -> Iterator[Watch]:
    """On a terminal a bar for each stage; elsewhere a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    from llama.data.building.progress import Progress as Done
    from llama.data.building.progress import in_lines

    console = Console(stderr=True)
    if not console.is_terminal:
        yield in_lines(note)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[parts]}  {task.fields[size]}  {task.fields[rate]}  {task.fields[left]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def watch(done: Done) -> None:
            if done.stage not in tasks:
                tasks[done.stage] = bars.add_task(done.stage, total=1.0, parts="", size="", rate="", left="")
            left = done.remaining_seconds
            bars.update(
                tasks[done.stage],
                completed=done.share,
                parts=f"{done.done:,}/{done.parts:,} parts",
                size=f"{done.bytes / 1e6:,.1f} MB",
                rate=f"{done.megabytes_per_second:,.1f} MB/s",
                left=f"{done.seconds:.0f} s" if done.is_over else f"{left:.0f} s left" if left is not None else "",
            )

        yield watch


def _show(made: Corpus, seconds: float, *, as_json: bool) -> None:
    from rich.table import Table

    manifest = made.manifest
    if as_json:
        print_json({"folder": str(made.folder), "seconds": round(seconds, 3), **manifest.model_dump(mode="json")})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("domain", "documents", "held out", "MB", "tokens", "copies", "near copies", "held-out grams seen"):
        table.add_column(heading, justify="left" if heading == "domain" else "right")
    for name, domain in manifest.domains.items():
        seen = domain.held_out_grams_in_training / domain.held_out_grams if domain.held_out_grams else 0.0
        table.add_row(
            name,
            f"{domain.train_documents:,}",
            f"{domain.validation_documents:,}",
            f"{(domain.train_bytes + domain.validation_bytes) / 1e6:,.1f}",
            f"{domain.train_tokens + domain.validation_tokens:,}",
            f"{domain.duplicates:,}",
            f"{domain.near_duplicates:,}",
            f"{seen:.1%}",
        )
    print_table(table)
    say(f"{made.folder}  vocabulary {made.vocab_size:,}, digest {made.digest[:12]}, {seconds:.1f} s")
