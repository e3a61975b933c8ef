"""Validation loss on the fixed held-out windows, by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from llama.data.held_out import ValidationWindows
from llama.loss import next_token_loss
from llama.metric_names import VAL_BPB, VAL_LOSS, val_domain_bpb, val_domain_loss
from llama.model import Llama


# A compiled model is compiled for training batches: doing it again for these would take longer than they do.
@torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
@torch.no_grad()
def validate(
    model: Llama,
    held_out: Sequence[ValidationWindows],
    weights: Mapping[str, float],
    token_bytes: NDArray[np.integer],
    device: torch.device,
) -> dict[str, float | None]:
    """Nats a token and bits a byte for each domain, and over all, weighted as in training.

    Bits a byte leave out targets that stand for no text (BOS), in both the nats and the bytes, so that tokenizers compare.
    """
    bytes_V = torch.as_tensor(token_bytes, dtype=torch.float64)
    metrics: dict[str, float | None] = {}
    mean_loss, mean_bpb = 0.0, 0.0
    for windows in held_out:
        nats, targets, text_nats, text_bytes = 0.0, 0, 0.0, 0.0
        for array_BS in windows:
            window_BS = torch.from_numpy(array_BS).to(device)
            loss_N = next_token_loss(model, window_BS[:, :-1], window_BS[:, 1:], reduction="none").double().cpu()
            bytes_N = bytes_V[window_BS[:, 1:].flatten().cpu()]
            nats += loss_N.sum().item()
            targets += loss_N.numel()
            text_nats += loss_N[bytes_N > 0].sum().item()
            text_bytes += bytes_N.sum().item()
        loss, bpb = nats / targets, text_nats / math.log(2) / text_bytes
        metrics[val_domain_loss(windows.domain)] = loss
        metrics[val_domain_bpb(windows.domain)] = bpb
        mean_loss += weights[windows.domain] * loss
        mean_bpb += weights[windows.domain] * bpb
    return {VAL_LOSS: mean_loss, VAL_BPB: mean_bpb, **metrics}
