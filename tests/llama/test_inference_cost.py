import torch

from llama import inference_cost
from llama.accounting import kv_bytes_per_token, weight_bytes
from llama.inference_cost import _Timing, measure_inference
from llama.records import InferenceProtocol
from tests.llama.shapes import tiny_model

PROTOCOL = InferenceProtocol(prompt_tokens=4, output_tokens=4, max_batch=64, repetitions=5)


def test_every_shape_is_measured_at_the_same_batches_up_to_the_last_ones_saturation(monkeypatch) -> None:
    """Fake timings: a step takes 1 ms and a time a sequence; the wide model saturates at once, the narrow one never."""
    slope_seconds = {32: 1e-5, 64: 1e-3}

    def timing(model, protocol, batch, device):
        return _Timing(0.01, 1e-3 + slope_seconds[model.config.d_model] * batch)

    monkeypatch.setattr(inference_cost, "_time_once", timing)
    costs = measure_inference({"narrow": tiny_model(), "wide": tiny_model(d_model=64)}, PROTOCOL, dtype="float32")
    assert {tuple(point.batch for point in cost.points) for cost in costs.values()} == {(1, 2, 4, 8, 16, 32, 64)}
    assert costs["narrow"].saturated.batch == 64
    assert costs["narrow"].points[3].decode_tokens_per_second == 8 / (1e-3 + 8e-5)


def test_one_slow_run_does_not_end_the_search_for_saturation(monkeypatch) -> None:
    calls: list[int] = []

    def timing(model, protocol, batch, device):
        calls.append(batch)
        return _Timing(0.01, 1.0 if batch == 4 and calls.count(4) <= 2 else 1e-3)

    monkeypatch.setattr(inference_cost, "_time_once", timing)
    cost = measure_inference({"one": tiny_model()}, PROTOCOL, dtype="float32")["one"]
    assert cost.saturated.batch == 64


def test_a_real_measurement_is_consistent() -> None:
    model = tiny_model(n_kv_heads=2)
    protocol = PROTOCOL.model_copy(update={"max_batch": 2})
    cost = measure_inference({"one": model}, protocol, dtype="float32")["one"]
    assert (cost.weight_bytes, cost.kv_bytes_per_token) == (weight_bytes(model, 4), kv_bytes_per_token(model, 4))
    for point in cost.points:
        assert 0 < point.tpot_seconds.p5 <= point.tpot_seconds.median <= point.tpot_seconds.p95
        assert point.decode_tokens_per_second == point.batch / point.tpot_seconds.median
        assert point.prefill_tokens_per_second == point.batch * 4 / point.ttft_seconds.median


def test_bfloat16_weights_keep_a_complex_rotation() -> None:
    model = inference_cost._random_model(tiny_model(), PROTOCOL, "bfloat16", torch.device("cpu"))
    assert model.embedding.weight.dtype == torch.bfloat16
    assert model.rotation_TR.dtype == torch.complex64
