"""How fast several runs of one shape train side by side on one device: their summed tokens a second, and memory of each.

Each run is a process of its own, as in a sweep. All warm up, say so, and train for the same seconds. Run as
`python -m llama.sharing` this module is one of them; it ends when its standard input closes, so none outlives its parent.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from llama.config import RunConfig
from llama.errors import UserError
from llama.records import Record

GO = "go"
#: Beyond any start, compilation or single step: a run that is silent for longer hangs.
WARM_SECONDS = 600.0


class SharedSpeed(Record):
    """So many runs side by side."""

    runs: int
    tokens_per_second: float
    """Summed over the runs."""
    memory_bytes: int
    """Of the hungriest run at its peak: on a GPU its share of all that the runs hold there, contexts included; else its
    process' resident memory."""
    device_bytes: int
    """All the memory that the device has."""
    threads: int
    """Of each run."""


def measure_sharing(config: RunConfig, runs: int, *, seconds: float, threads: int, use_gpu: bool) -> SharedSpeed:
    """Train `runs` copies of `config` side by side on random tokens, `seconds` after all have warmed up.

    Raises:
        UserError: a run hung, or ended before it had measured, as for want of memory.
    """
    request = {"config": config.model_dump_json(), "seconds": seconds, "threads": threads, "use_gpu": use_gpu}
    children: list[_Child] = []
    try:
        for _ in range(runs):
            children.append(_start(request))
        for child in children:
            _read(child, WARM_SECONDS)  # that it is warm
        for child in children:
            _write(child, GO)
        told = [_read(child, seconds + WARM_SECONDS) for child in children]
    finally:
        for child in children:
            child.process.kill()
        for child in children:
            child.process.communicate()
            child.errors.close()
    held_bytes = max(each["device_used_bytes"] for each in told)
    return SharedSpeed(
        runs=runs,
        tokens_per_second=sum(each["tokens_per_second"] for each in told),
        memory_bytes=max(held_bytes // runs, *(each["peak_bytes"] for each in told)),
        device_bytes=told[0]["device_bytes"],
        threads=threads,
    )


@dataclass(frozen=True, kw_only=True)
class _Child:
    process: subprocess.Popen[str]
    errors: IO[str]


def _start(request: dict[str, Any]) -> _Child:
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the child
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "llama.sharing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    child = _Child(process=process, errors=errors)
    _write(child, json.dumps(request))
    return child


def _write(child: _Child, line: str) -> None:
    assert child.process.stdin is not None
    try:
        child.process.stdin.write(line + "\n")
        child.process.stdin.flush()
    except BrokenPipeError:
        _ended(child)


def _read(child: _Child, timeout_seconds: float) -> dict[str, Any]:
    assert child.process.stdout is not None
    ready, _, _ = select.select([child.process.stdout], [], [], timeout_seconds)
    if not ready:
        raise UserError(f"a run that was to share the device said nothing for {timeout_seconds:.0f} seconds")
    line = child.process.stdout.readline()
    if not line:
        _ended(child)
    answer: dict[str, Any] = json.loads(line)
    return answer


def _ended(child: _Child) -> NoReturn:
    code = child.process.wait()
    child.errors.seek(0)
    said = child.errors.read().strip().splitlines()
    raise UserError(f"a run that was to share the device ended with code {code}: {said[-1] if said else 'silent'}")


def _serve() -> None:
    """One run: read the request, warm up, wait for the word, train, answer."""
    request = json.loads(sys.stdin.readline())
    config = RunConfig.model_validate_json(request["config"])
    from llama.speed import warm_step

    step = warm_step(config, threads=request["threads"])
    print("{}", flush=True)
    if sys.stdin.readline().strip() != GO:
        return
    steps, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < request["seconds"] or not steps:
        step()
        steps += 1
    elapsed = time.perf_counter() - started
    memory = _gpu_memory() if request["use_gpu"] else _host_memory()
    print(json.dumps({"tokens_per_second": steps * config.batch_tokens / elapsed, **memory}), flush=True)
    sys.stdin.readline()  # what it holds counts until all have looked


def _gpu_memory() -> dict[str, int]:
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "peak_bytes": torch.cuda.max_memory_reserved(),
        "device_used_bytes": total - free,
        "device_bytes": total,
    }


def _host_memory() -> dict[str, int]:
    import resource

    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": peak * scale, "device_used_bytes": 0, "device_bytes": psutil.virtual_memory().total}


if __name__ == "__main__":
    _serve()
