"""What serving costs, measured: TTFT, TPOT, prefill and decode speed over batch sizes up to saturation.

Fixed synthetic prompts, greedy, no stop token, so that every model does the same work; weights matter to none of it. All
shapes are measured at the same batches, up to where the last of them saturates, and shapes and batches are interleaved
within each repetition, so that a drift of the machine hits all alike. Names as in vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from llama.accounting import kv_bytes_per_token, weight_bytes
from llama.config import DType, ModelConfig
from llama.decoding import decode_step, prefill
from llama.device import device_name, pick_device
from llama.model import Llama
from llama.records import InferenceCost, InferencePoint, InferenceProtocol, Quantiles

#: A doubling of the batch gains if it raises decoded tokens a second by this factor.
SATURATION_GAIN = 1.05

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class _Timing(NamedTuple):
    ttft_seconds: float
    tpot_seconds: float


def measure_inference(
    shapes: Mapping[str, ModelConfig],
    protocol: InferenceProtocol,
    *,
    dtype: DType,
    threads: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, InferenceCost]:
    """Measure every shape on this process's device. Call it when the machine is otherwise idle."""
    device = pick_device()
    torch.set_num_threads(threads)
    models = {name: _random_model(config, protocol, dtype, device) for name, config in shapes.items()}
    largest = max(_saturating_batch(model, protocol, device) for model in models.values())
    batches = [2**power for power in range(largest.bit_length())]
    timings: dict[tuple[str, int], list[_Timing]] = {(name, batch): [] for name in models for batch in batches}
    for repetition in range(protocol.repetitions):
        report(f"inference cost: repetition {repetition + 1} of {protocol.repetitions}")
        for name, model in models.items():
            for batch in batches:
                timings[name, batch].append(_time_once(model, protocol, batch, device))
    return {
        name: InferenceCost(
            device=device_name(device),
            threads=threads,
            dtype=dtype,
            prompt_tokens=protocol.prompt_tokens,
            output_tokens=protocol.output_tokens,
            repetitions=protocol.repetitions,
            weight_bytes=weight_bytes(config, DTYPES[dtype].itemsize),
            kv_bytes_per_token=kv_bytes_per_token(config, DTYPES[dtype].itemsize),
            points=[_point(batch, timings[name, batch], protocol) for batch in batches],
        )
        for name, config in shapes.items()
    }


def _random_model(config: ModelConfig, protocol: InferenceProtocol, dtype: DType, device: torch.device) -> Llama:
    model = Llama(config, max_tokens=protocol.prompt_tokens + protocol.output_tokens)
    model.initialise(torch.Generator().manual_seed(0))
    model.to(device)
    for parameter in model.parameters():  # not `model.to(dtype)`: it would drop the rotary table's imaginary part
        parameter.data = parameter.data.to(DTYPES[dtype])
    return model.eval()


def _saturating_batch(model: Llama, protocol: InferenceProtocol, device: torch.device) -> int:
    """The power of two beyond which two doublings in a row gain nothing, as far as two runs each tell: these warm up, too."""
    batch, best, idle_doublings = 1, 0.0, 0
    while True:
        speed = max(batch / _time_once(model, protocol, batch, device).tpot_seconds for _ in range(2))
        idle_doublings = 0 if speed > SATURATION_GAIN * best else idle_doublings + 1
        best = max(best, speed)
        if idle_doublings == 2 or 2 * batch > protocol.max_batch:
            return batch
        batch *= 2


def _time_once(model: Llama, protocol: InferenceProtocol, batch: int, device: torch.device) -> _Timing:
    generator = torch.Generator().manual_seed(batch)
    prompt_BT = torch.randint(model.config.vocab_size, (batch, protocol.prompt_tokens), generator=generator).to(device)
    dtype = model.embedding.weight.dtype
    _wait(device)
    started = time.perf_counter()
    token_B1, cache = prefill(model, prompt_BT, max_tokens=protocol.prompt_tokens + protocol.output_tokens, dtype=dtype)
    _wait(device)
    first = time.perf_counter()
    for _ in range(protocol.output_tokens - 1):
        token_B1 = decode_step(model, token_B1, cache)
    _wait(device)
    ended = time.perf_counter()
    return _Timing(first - started, (ended - first) / (protocol.output_tokens - 1))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _point(batch: int, timings: list[_Timing], protocol: InferenceProtocol) -> InferencePoint:
    ttft = _quantiles([timing.ttft_seconds for timing in timings])
    tpot = _quantiles([timing.tpot_seconds for timing in timings])
    return InferencePoint(
        batch=batch,
        ttft_seconds=ttft,
        tpot_seconds=tpot,
        prefill_tokens_per_second=batch * protocol.prompt_tokens / ttft.median,
        decode_tokens_per_second=batch / tpot.median,
    )


def _quantiles(values: list[float]) -> Quantiles:
    p5, median, p95 = np.percentile(values, [5, 50, 95]).tolist()
    return Quantiles(median=median, p5=p5, p95=p95)
