"""One training step: a batch through the model in micro-batches, the gradient clipped, the weights updated. No host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llama.loss import next_token_loss
from llama.model import Llama
from llama.spikes import SpikeFilter


class StepResult(NamedTuple):
    """Scalars of one step, left on the device."""

    loss: Tensor
    """Nats, the mean over the batch's tokens."""
    grad_norm: Tensor
    """Before clipping."""
    skipped: Tensor
    """1.0 where the update was skipped as a spike, else 0.0."""


def training_step(
    model: Llama,
    optimizer: torch.optim.AdamW,
    tokens_BS: Tensor,
    *,
    micro_batch_sequences: int,
    learning_rate: float,
    clip_norm: float,
    spikes: SpikeFilter | None = None,
) -> StepResult:
    """One update on a batch of sequences, each one token longer than the context (inputs and targets overlap).

    `micro_batch_sequences` divides the batch and go through the model at once. Each micro-batch's mean loss counts by its
    share, so that the gradients add up, in the float32 of the weights they belong to, to that of the mean over the batch.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
    micro_batches = tokens_BS.split(micro_batch_sequences)
    loss = torch.zeros((), device=tokens_BS.device)
    for tokens_MS in micro_batches:
        share = next_token_loss(model, tokens_MS[:, :-1], tokens_MS[:, 1:]) / len(micro_batches)
        # Products of the backward pass have the types of the forward one's; autocast would round those that were kept apart.
        with torch.autocast(tokens_BS.device.type, enabled=False):
            share.backward()
        loss += share.detach()
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm, foreach=True)
    if spikes is None:
        skipped = torch.zeros_like(loss)
    else:
        # Fused AdamW leaves weights, moments and its count of steps as they are where `found_inf` is 1.
        skipped = spikes.judge(loss, grad_norm)
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, grad_norm, skipped)
