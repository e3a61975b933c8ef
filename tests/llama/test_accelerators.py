"""The table of GPUs: one entry a card, each of its figures told from the others'."""

import pytest
import torch

from llama import device
from llama.accelerators import ACCELERATORS, named_by_driver


def test_every_card_has_names_of_its_own():
    assert len({card.name.lower() for card in ACCELERATORS}) == len(ACCELERATORS)
    assert len({card.driver_name for card in ACCELERATORS}) == len(ACCELERATORS)


def test_a_price_says_whose_list_it_is_from_and_when_it_was_read():
    priced = [card.price for card in ACCELERATORS if card.price is not None]
    assert priced
    for price in priced:
        assert price.usd_per_hour > 0
        assert "202" in price.source


def test_mfu_is_of_the_peak_in_the_table_and_absent_for_an_unknown_card(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(device, "device_name", lambda _: "NVIDIA A100-SXM4-40GB")
    assert device.peak_flops_per_second(gpu, "bfloat16") == 312e12
    assert device.peak_flops_per_second(gpu, "float32") is None
    monkeypatch.setattr(device, "device_name", lambda _: "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert device.peak_flops_per_second(gpu, "bfloat16") is None
    assert named_by_driver("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
