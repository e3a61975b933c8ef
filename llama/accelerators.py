"""GPUs that are known: their peak, memory and power from NVIDIA's data sheets, and what an hour of one is listed at.

The one table of hardware: training reads the peak for its MFU, planning all of it. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ListPrice:
    """What one provider asks for an hour of one GPU on demand, without a commitment."""

    usd_per_hour: float
    source: str
    """Whose list, and when it was read."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One model of GPU."""

    name: str
    """As people write it: `H100`, `A100-40GB`."""
    driver_name: str
    """As the driver reports it, in full: a slice or a cousin of a card has another name, and another peak."""
    peak_bf16_flops: float
    """Dense bf16 FLOP/s."""
    memory_bytes: int
    """What runs may take: about 7 % less than the driver shows, which is left to fragmentation. With HBM that is the data
    sheet's gigabytes as 10^9 (an 80 GB card shows 81,559 MiB); with GDDR6 error correction takes its part of those first."""
    power_watts: float
    """Most that the board draws."""
    price: ListPrice | None = None
    """None where no list with its date was at hand."""


def _lambda(usd_per_hour: float) -> ListPrice:
    return ListPrice(
        usd_per_hour=usd_per_hour, source="Lambda on demand, a GPU of eight, lambda.ai/instances on 2026-09-20"
    )


ACCELERATORS = (
    Accelerator(
        name="B200",
        driver_name="NVIDIA B200",
        peak_bf16_flops=2.25e15,
        memory_bytes=180_000_000_000,
        power_watts=1000,
        price=_lambda(6.69),
    ),
    Accelerator(
        name="H200",
        driver_name="NVIDIA H200",
        peak_bf16_flops=989e12,
        memory_bytes=141_000_000_000,
        power_watts=700,
        price=ListPrice(usd_per_hour=5.40, source="Nebius on demand, read 2026-10-24"),
    ),
    Accelerator(
        name="H100",
        driver_name="NVIDIA H100 80GB HBM3",
        peak_bf16_flops=989e12,
        memory_bytes=80_000_000_000,
        power_watts=700,
        price=_lambda(3.99),
    ),
    Accelerator(
        name="H100-PCIe",
        driver_name="NVIDIA H100 PCIe",
        peak_bf16_flops=756e12,
        memory_bytes=80_000_000_000,
        power_watts=350,
        price=ListPrice(usd_per_hour=3.29, source="Lambda on demand, lambda.ai/pricing on 2026-09-25"),
    ),
    Accelerator(
        name="A100-80GB",
        driver_name="NVIDIA A100-SXM4-80GB",
        peak_bf16_flops=312e12,
        memory_bytes=80_000_000_000,
        power_watts=400,
        price=_lambda(2.79),
    ),
    Accelerator(
        name="A100-40GB",
        driver_name="NVIDIA A100-SXM4-40GB",
        peak_bf16_flops=312e12,
        memory_bytes=40_000_000_000,
        power_watts=400,
        price=_lambda(1.99),
    ),
    Accelerator(
        name="A100-PCIe-80GB",
        driver_name="NVIDIA A100 80GB PCIe",
        peak_bf16_flops=312e12,
        memory_bytes=80_000_000_000,
        power_watts=300,
        price=ListPrice(usd_per_hour=1.79, source="RunPod Secure Cloud, runpod.io/pricing on 2026-11-09"),
    ),
    Accelerator(
        name="A100-PCIe-40GB",
        driver_name="NVIDIA A100-PCIE-40GB",
        peak_bf16_flops=312e12,
        memory_bytes=40_000_000_000,
        power_watts=250,
    ),
    Accelerator(
        name="L40S",
        driver_name="NVIDIA L40S",
        peak_bf16_flops=362e12,
        memory_bytes=45_000_000_000,  # of 46,068 MiB
        power_watts=350,
    ),
    Accelerator(
        name="L4",
        driver_name="NVIDIA L4",
        peak_bf16_flops=121e12,
        memory_bytes=22_500_000_000,  # of 23,034 MiB
        power_watts=72,
    ),
)


def named_by_driver(driver_name: str) -> Accelerator | None:
    """The GPU that the driver calls so; None where it isn't known."""
    return next((known for known in ACCELERATORS if known.driver_name == driver_name), None)
