import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import torch

from llama.data.corpus import Corpus
from llama.metric_names import (
    CPU_PERCENT,
    GPU_MEMORY_MEGABYTES,
    GPU_MEMORY_PERCENT,
    GPU_PERCENT,
    GPU_POWER_WATTS,
    MEMORY_PERCENT,
    PROCESS_CPU_PERCENT,
    PROCESS_MEMORY_MEGABYTES,
)
from llama.records import read_journal
from llama.system_metrics import SystemMetrics
from llama.trainer import train_segment
from tests.llama.attempts import assert_same_bytes
from tests.llama.shapes import tiny_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_a_sample_is_of_this_process_and_machine(tmp_path: Path) -> None:
    metrics = SystemMetrics(tmp_path, CPU)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    sample = {name: value for name, value in metrics.sample_if_due().items() if value is not None}
    assert sample[PROCESS_CPU_PERCENT] > 0
    assert 0 <= sample[CPU_PERCENT] <= 100
    assert 0 < sample[MEMORY_PERCENT] <= 100
    resident = psutil.Process().memory_info().rss / 1e6
    assert sample[PROCESS_MEMORY_MEGABYTES] == pytest.approx(resident, rel=0.2)
    assert not any("gpu" in name for name in sample)
    assert metrics.sample_if_due() == {}


def test_a_month_has_some_hundred_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("llama.system_metrics.time.monotonic", lambda: now)
    metrics = SystemMetrics(tmp_path, CPU)
    samples = {"an hour": 0, "a month": 0}
    for until, seconds in (("an hour", 3600), ("a month", 30 * 24 * 3600)):
        while now < seconds:
            samples[until] += bool(metrics.sample_if_due())
            now = metrics._due  # a window that ends just when one is due
    assert 100 < samples["an hour"] < 360
    assert samples["an hour"] < samples["a month"] < 1000


class Gpu:
    """What torch would say of a GPU, and how often NVML was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None):
        self.asked = 0
        self._error = error
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60_000_000_000, 80_000_000_000))
        monkeypatch.setattr(torch.cuda, "utilization", self._utilization)
        monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 431_000)

    def _utilization(self, device: torch.device) -> int:
        self.asked += 1
        if self._error is not None:
            raise self._error
        return 97


def test_a_gpu_tells_its_memory_load_and_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch)
    sample = SystemMetrics(tmp_path, CUDA).sample_if_due()
    expected = {GPU_MEMORY_MEGABYTES: 20_000.0, GPU_MEMORY_PERCENT: 25.0, GPU_PERCENT: 97.0, GPU_POWER_WATTS: 431.0}
    assert {name: value for name, value in sample.items() if "gpu" in name} == expected


@pytest.mark.parametrize("error", [ModuleNotFoundError("nvidia-ml-py"), RuntimeError("cannot get the driver")])
def test_what_nvml_does_not_tell_is_absent_and_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    gpu = Gpu(monkeypatch, error)
    metrics = SystemMetrics(tmp_path, CUDA)
    for _ in range(2):
        metrics._due = 0.0
        assert {name for name in metrics.sample_if_due() if "gpu" in name} == {GPU_MEMORY_MEGABYTES, GPU_MEMORY_PERCENT}
    assert gpu.asked == 1


def test_they_are_journalled_with_the_first_window_and_change_no_bit(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 0.75, "upper": 0.25}, tokens=64 * 40)
    sampled, bare = tmp_path / "sampled", tmp_path / "bare"
    train_segment(config, run_folder=sampled, corpus=tiny_corpus, until_step=40)
    with patch.object(SystemMetrics, "sample_if_due", return_value={}):
        train_segment(config, run_folder=bare, corpus=tiny_corpus, until_step=40)
    first, *others = read_journal(sampled)
    assert {name for name in first.metrics if name.startswith("system/")} >= {CPU_PERCENT, PROCESS_MEMORY_MEGABYTES}
    assert not any(name.startswith("system/") for point in others for name in point.metrics)
    assert_same_bytes(sampled, bare, config)
