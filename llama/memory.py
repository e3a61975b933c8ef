"""Memory of training, in closed form: what a step holds at its peak. No torch.

Counted is what torch's allocator holds in eager mode on a CPU with the flash kernel; a compiled step keeps no more. A process
with torch loaded, and its data, come on top.
"""

from __future__ import annotations

from llama.accounting import count_parameters
from llama.config import ActivationCheckpointing, Device, DType, ModelConfig
from llama.loss_chunks import loss_chunk_tokens

_ELEMENT_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}


def kept_bytes_per_token(
    model: ModelConfig, *, dtype: DType, activation_checkpointing: ActivationCheckpointing, device: Device
) -> int:
    """What one layer keeps of one token for the backward pass.

    The residual stream and the norms are float32 whatever the compute precision, and so are the logarithms of attention's
    denominators, one a head; in compute precision are the inputs and outputs of linear layers and SwiGLU's products, and
    queries, keys and values where attention is (Korthikanti et al. 2022, section 4.1, count a GELU transformer the same way).
    """
    d, kv, element = model.d_model, model.n_kv_heads * model.d_head, _ELEMENT_BYTES[dtype]
    widened = _widens_attention(dtype, device)
    if activation_checkpointing == "full":
        return 4 * d  # the layer's input
    if activation_checkpointing == "selective":
        linear_outputs = (d + 2 * kv) + d + 2 * model.d_ff + d
        return 4 * d + 4 * model.n_heads + element * linear_outputs + (4 if widened else element) * d
    norms = 2 * (4 * d + 4 * d + 4)  # each its input, that input over its root mean square, and the root
    # Widened: queries, keys, values and output in float32, and the output again as the next layer's input. Else the linear
    # layer's output, which holds the values; rotated queries and keys; the output.
    attention = 4 * (2 * d + 2 * kv) + element * d if widened else element * (3 * d + 3 * kv)
    return norms + 4 * model.n_heads + attention + element * (2 * d + 4 * model.d_ff)


def training_bytes(
    model: ModelConfig,
    *,
    batch_sequences: int,
    micro_batch_sequences: int,
    dtype: DType,
    activation_checkpointing: ActivationCheckpointing,
    device: Device,
) -> int:
    """Most that weights, optimiser state, gradients and activations hold at any moment of a training step.

    That moment is one of four: the loss's last chunk, when every activation is there; the backward pass in the last block, or
    in the first one, when gradients have taken the place of activations; or its end, when all gradients are there.
    """
    n_params, n_params_non_embedding, n_params_matmul = count_parameters(model)
    d, vocab = model.d_model, model.vocab_size
    tokens = micro_batch_sequences * model.context_length
    head_bytes = 4 * vocab * d

    state = 12 * n_params  # float32 weights and AdamW's two moments
    if dtype == "bfloat16":
        state += 2 * (n_params_matmul - vocab * d)  # autocast's copies of the blocks' matrices
    gradients = 4 * n_params
    accumulates = micro_batch_sequences < batch_sequences
    if accumulates:  # the earlier parts' gradients are there from the start
        state, gradients = state + gradients, 0

    kept = kept_bytes_per_token(model, dtype=dtype, activation_checkpointing=activation_checkpointing, device=device)
    all_kept = tokens * model.n_layers * kept
    at_loss = state + all_kept + _loss_bytes(model, tokens, dtype, device)
    block = tokens * _backward_bytes_per_token(model, dtype, activation_checkpointing, device)
    down = 4 * d * model.d_ff  # the gradient that the first product of a block's backward pass makes
    in_last_block = state + all_kept + block + down + (0 if accumulates else head_bytes)
    above_first = 0 if accumulates else head_bytes + 4 * n_params_non_embedding * (model.n_layers - 1) // model.n_layers
    in_first_block = state + tokens * kept + block + down + above_first
    # Gradients on their way to what they are added to: the embedding's to a tied head's, any to those of earlier parts.
    adding = head_bytes * model.tied_head
    if accumulates:
        gate_up = (4 if dtype == "float32" else 4 + 2) * 2 * model.d_ff * d
        adding += max(head_bytes, gate_up)
    at_end = state + gradients + adding + 4 * tokens * d
    return max(at_loss, in_last_block, in_first_block, at_end)


def _loss_bytes(model: ModelConfig, tokens: int, dtype: DType, device: Device) -> int:
    """The last norm, the states with their gradient, the head's, and one chunk of logits (see `llama.loss`)."""
    d, vocab, element = model.d_model, model.vocab_size, _ELEMENT_BYTES[dtype]
    chunk = min(tokens, loss_chunk_tokens(vocab, device))
    states = tokens * (8 * d + 4 + 8 * d + 4 + 8)  # norm; states and gradient; denominators; targets
    head = 4 * vocab * d
    if element < 4:  # the head's copy, and a chunk's product; which is widened to be added to those before it
        head += (2 + 2 + (4 if tokens > chunk else 0)) * vocab * d
    low_precision = 0 if element == 4 else element * (vocab + 2 * d)
    return states + head + chunk * (4 * vocab + 4 * d + low_precision)


def _backward_bytes_per_token(
    model: ModelConfig, dtype: DType, activation_checkpointing: ActivationCheckpointing, device: Device
) -> int:
    """At its peak, in the backward pass of SwiGLU, what one block holds of a token beyond what all blocks keep: gradients of
    the residual stream and of two products, and what was recomputed.
    """
    d, kv, element = model.d_model, model.n_kv_heads * model.d_head, _ELEMENT_BYTES[dtype]
    gradients = 4 * d + 2 * element * model.d_ff
    if activation_checkpointing == "none":
        return gradients
    if activation_checkpointing == "full":
        whole = kept_bytes_per_token(model, dtype=dtype, activation_checkpointing="none", device=device)
        return gradients + whole - 4 * d
    norms = 3 * 4 * d + 8  # both normalised inputs and the second input, in float32
    products = element * (2 * d + 2 * model.d_ff)  # the linear layers' inputs, SwiGLU's products
    # Queries, keys and values, less the outputs of linear layers that are spent by then.
    if _widens_attention(dtype, device):
        attention = 4 * (d + 2 * kv) + element * d - element * (d + 2 * kv) - element * d
    else:
        attention = element * (d + kv) - element * d
    return gradients + norms + products + attention


def _widens_attention(dtype: DType, device: Device) -> bool:
    """Whether attention is in float32 beside products in bfloat16: see `llama.precision`."""
    return dtype == "bfloat16" and device == "cpu"
