"""How fast and in how much memory a corpus is built: `python -m benchmarks.corpus --corpora DIR`. One JSON document.

Text of DIR (a folder a domain, of any files that `isoloss corpus build` reads) is built into a corpus four ways, one after
the other and again: in one process without Ray, on Ray with one worker, with as many as there are cores, and with as many on
Ray Data. Then corpora of several sizes are built with all workers, while the memory of all processes is sampled.

Rates are UTF-8 bytes of text over the wall time of the whole build, tokenizer and joining included and the start of Ray left
out, which is given by itself. A machine that does other work at the same time spoils them, so each build also has its CPU
seconds, and `speedup_by_cpu` is what they would come to on idle cores: what the calling process does by itself is serial, what
the workers do is shared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import machine, versions
from benchmarks.ray_data import RayDataTasks
from cluster.machine import available_cpus
from cluster.ray_tasks import RayTasks
from llama.data.building.build import build_corpus
from llama.data.building.progress import Progress
from llama.data.files import find_files, read_file
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec

SAMPLE_SECONDS = 0.1
VOCAB_SIZE = 4096
MAX_DOCUMENT_BYTES = 100_000


def _texts(folder: Path) -> Iterator[str]:
    """A domain's documents, for ever: those that come again have a number in front, or they would be copies."""
    for lap in count():
        for name, path in find_files(["."], base=folder, where=str(folder)).items():
            for document in read_file(name, path, text_field="text", skipped=Counter()):
                yield f"{lap} {document.text}" if lap else document.text


def write_text(corpora: Path, folder: Path, size_bytes: int) -> CorpusSpec:
    """So much text below `folder`, the domains in equal shares, one file each; and the corpus of them."""
    folder.mkdir()
    names = sorted(path.name for path in corpora.iterdir() if path.is_dir())
    for name in names:
        left_bytes = size_bytes // len(names)
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for text in _texts(corpora / name):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                left_bytes -= len(text.encode())
                if left_bytes <= 0:
                    break
    return CorpusSpec(
        domains={
            name: DomainSpec(weight=1.0, files=[f"{name}.jsonl"], max_document_bytes=MAX_DOCUMENT_BYTES)
            for name in names
        },
        tokenizer=TokenizerSpec(vocab_size=VOCAB_SIZE),
    )


class Watched:
    """All processes of a build: their CPU seconds, and the peak of their memory. Sampled, for Ray's workers come and go."""

    def __init__(self, *, memory: bool) -> None:
        self.peak_bytes = 0
        self._memory = memory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._first: dict[psutil.Process, float] = {}
        self._last: dict[psutil.Process, float] = {}

    def __enter__(self) -> Watched:
        self._own = time.process_time()
        self._look()
        self._first = dict(self._last)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.own_cpu_seconds = time.process_time() - self._own
        self.worker_cpu_seconds = sum(last - self._first.get(process, 0.0) for process, last in self._last.items())

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        own = psutil.Process()
        others = own.children(recursive=True)
        for process in others:
            with suppress(psutil.NoSuchProcess):
                self._last[process] = sum(process.cpu_times()[:2])
        if self._memory:
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, [own, *others])))


def _pss_bytes(process: psutil.Process) -> int:
    """Memory of its own and its share of what it shares."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:  # it has ended
        pass
    return 0


def measure(
    spec: CorpusSpec, base: Path, workers: int, *, tasks: type[RayTasks] = RayTasks, memory: bool = False
) -> dict[str, Any]:
    """Build the corpus in a new folder; 0 workers is this process alone, without Ray."""
    stages: dict[str, Progress] = {}

    def watch(progress: Progress) -> None:
        stages[progress.stage] = progress

    with tempfile.TemporaryDirectory(dir=base) as storage, ExitStack() as stack:
        arguments: dict[str, Any] = {"base": base, "report": lambda line: None, "watch": watch}
        start_seconds = 0.0
        if workers:
            started = time.perf_counter()
            preload = ["llama.data.building.stages", *(["ray.data"] if tasks is RayDataTasks else [])]
            execute = stack.enter_context(tasks(workers=workers, preload=preload))
            execute.open()
            start_seconds = time.perf_counter() - started
            arguments["execute"] = execute
        with Watched(memory=memory) as watched:
            started = time.perf_counter()
            corpus = build_corpus(spec, Path(storage), **arguments)
            seconds = time.perf_counter() - started
    text_bytes = stages["reading"].bytes
    return {
        "way": way_name(workers, tasks),
        "workers": workers,
        "digest": corpus.digest,
        "text_mb": round(text_bytes / 1e6, 1),
        "seconds": round(seconds, 2),
        "mb_per_second": round(text_bytes / 1e6 / seconds, 2),
        "encoding_mb_per_second": round(stages["encoding"].megabytes_per_second, 2),
        "ray_start_seconds": round(start_seconds, 2),
        "own_cpu_seconds": round(watched.own_cpu_seconds, 2),
        "worker_cpu_seconds": round(watched.worker_cpu_seconds, 2),
        **({"peak_memory_mb": round(watched.peak_bytes / 1e6)} if memory else {}),
    }


def way_name(workers: int, tasks: type[RayTasks] = RayTasks) -> str:
    """Of a row of the table."""
    if not workers:
        return "one process"
    return f"{'Ray Data' if tasks is RayDataTasks else 'Ray'}, workers: {workers}"


def idle_seconds(build: dict[str, Any]) -> float:
    """What a build would take on idle cores: the calling process's work, then the workers' side by side."""
    return float(build["own_cpu_seconds"] + build["worker_cpu_seconds"] / max(1, build["workers"]))


def compare(builds: list[dict[str, Any]], way: str, other: str) -> dict[str, Any]:
    """How much faster one way is than another: medians over the pairs."""
    pairs = list(
        zip(
            [build for build in builds if build["way"] == way],
            [build for build in builds if build["way"] == other],
            strict=True,
        )
    )
    return {
        "way": way,
        "against": other,
        "speedup": round(statistics.median(b["seconds"] / a["seconds"] for a, b in pairs), 3),
        "encoding": round(
            statistics.median(a["encoding_mb_per_second"] / b["encoding_mb_per_second"] for a, b in pairs), 3
        ),
        "speedup_by_cpu": round(statistics.median(idle_seconds(b) / idle_seconds(a) for a, b in pairs), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with a folder a domain")
    parser.add_argument("--megabytes", type=int, default=100, help="text that speeds are measured on")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[20, 80, 200], help="megabytes that memory is measured on"
    )
    options = parser.parse_args()
    workers = available_cpus()
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "speed"
        spec = write_text(options.corpora, texts, options.megabytes * 1_000_000)
        builds = []
        for _ in range(options.pairs):
            builds += [measure(spec, texts, n) for n in (0, 1, workers)]
            builds.append(measure(spec, texts, workers, tasks=RayDataTasks))
        memory = []
        for size in options.sizes:
            base = Path(folder) / f"memory-{size}"
            memory.append(measure(write_text(options.corpora, base, size * 1_000_000), base, workers, memory=True))
    document = {
        "machine": machine(),
        "versions": versions("ray", "sentencepiece", "numpy"),
        "vocab_size": VOCAB_SIZE,
        "builds": builds,
        "same_digest": len({build["digest"] for build in builds}) == 1,
        "comparisons": [
            compare(builds, way_name(workers), other)
            for other in (way_name(1), way_name(0), way_name(workers, RayDataTasks))
        ],
        "memory": memory,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
