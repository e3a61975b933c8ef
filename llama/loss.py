"""Next-token cross-entropy whose logits exist a chunk of tokens at a time, gradients included.

The head is the widest product of a small model: at a vocabulary of 32,000 the logits, their log-probabilities and their
gradient outweigh all activations together. Here each chunk's logits turn into its losses and into its gradients of states
and head before the next chunk's are made, so the backward pass has only to scale what is there, and nothing is computed
twice.

Shape suffixes: see `llama.model`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama.loss_chunks import loss_chunk_tokens
from llama.model import Llama


def next_token_loss(
    model: Llama, tokens_BT: Tensor, targets_BT: Tensor, *, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """Cross-entropy in nats of the token after each one, in float32: the mean, or with "none" one value a target, [B*T].

    The mean carries gradients; "none" is for measuring and carries none.
    """
    x_ND = model.hidden(tokens_BT).flatten(0, 1)
    head_VD, targets_N = model.head.weight, targets_BT.flatten()
    chunk_tokens = loss_chunk_tokens(len(head_VD), "cpu" if x_ND.device.type == "cpu" else "cuda")
    if reduction == "none":
        return losses(x_ND, head_VD, targets_N, chunk_tokens)
    if torch.is_grad_enabled():
        return MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk_tokens)  # type: ignore[no-untyped-call]
    return losses(x_ND, head_VD, targets_N, chunk_tokens).mean()


@torch.no_grad()
def losses(x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_tokens: int) -> Tensor:
    """Cross-entropies [N] in nats of targets under the logits x_ND head_VD^T, without gradients."""
    head_VD = head_VD.to(_compute_dtype(x_ND))
    chunks = zip(x_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    return torch.cat([_exponentials(x_CD.to(head_VD.dtype) @ head_VD.T, t_C)[0] for x_CD, t_C in chunks])


class MeanCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of targets under the logits x_ND head_VD^T, with both gradients worked out in the forward pass.

    With p = e^z / s, s = sum e^z, a chunk's gradients are dx = (p - 1[target]) head and dhead = (p - 1[target])^T x. The
    division by s is left to the narrow sides of these products, [C, D]; that of dx, and the one by the number of targets, to
    the backward pass, where the loss's own gradient is known.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_tokens: int) -> Tensor:
        compute = _compute_dtype(x_ND)
        accumulate = torch.promote_types(compute, torch.float32)
        weight_VD = head_VD.to(compute)
        total = torch.zeros((), dtype=accumulate, device=x_ND.device)
        undivided_dx_ND = torch.empty_like(x_ND)
        s_N1 = torch.empty(len(x_ND), 1, dtype=accumulate, device=x_ND.device)
        dhead_VD: Tensor | None = None
        for start in range(0, len(x_ND), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            x_CD = x_ND[chunk].to(compute)
            losses_C, e_CV, s_C1 = _exponentials(x_CD @ weight_VD.T, targets_N[chunk])
            total += losses_C.sum()
            s_N1[chunk] = s_C1
            g_CV = e_CV.scatter_add_(1, targets_N[chunk, None], -s_C1).to(compute)
            undivided_dx_ND[chunk] = g_CV @ weight_VD
            scaled_CD = (x_CD / s_C1).to(compute)
            if dhead_VD is None:
                dhead_VD = (g_CV.T @ scaled_CD).to(accumulate)
            elif compute == accumulate:
                dhead_VD.addmm_(g_CV.T, scaled_CD)
            else:
                dhead_VD += g_CV.T @ scaled_CD
            del e_CV, g_CV  # before the next chunk's logits are made
        assert dhead_VD is not None, "no targets"
        ctx.save_for_backward(undivided_dx_ND, s_N1, dhead_VD)
        ctx.head_dtype = head_VD.dtype
        return total / len(x_ND)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        undivided_dx_ND, s_N1, dhead_VD = ctx.saved_tensors
        scale = dloss / len(s_N1)
        # In place: a second backward pass over the same graph finds its saved tensors changed, and torch refuses it.
        return undivided_dx_ND.mul_(scale / s_N1), dhead_VD.mul_(scale).to(ctx.head_dtype), None, None


def _compute_dtype(x_ND: Tensor) -> torch.dtype:
    """What products are computed in: autocast's precision where it is on, as for any linear layer."""
    kind = x_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype


def _exponentials(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies [C], and e^(z - max) with its sums over the vocabulary [C, 1], all at least in float32.

    Overwrites the logits where they are in that precision.
    """
    z_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    max_C1, target_C1 = z_CV.amax(1, keepdim=True), z_CV.gather(1, targets_C[:, None])
    e_CV = z_CV.sub_(max_C1).exp_()
    s_C1 = e_CV.sum(1, keepdim=True)
    return (s_C1.log() + max_C1 - target_C1)[:, 0], e_CV, s_C1
