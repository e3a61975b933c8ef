"""torch.compile: when a run is long enough to earn it, what is compiled, and where the result is kept.

The rule is asked by planning, so torch is imported where something is compiled.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llama.model import Llama

#: A run is compiled when its training FLOPs reach this. FLOPs, not seconds: a run's key hangs on the answer, and must not
#: change with a measured speed. From here on compiling pays twice over. On a CPU a shape compiles in about 30 s cold and saves
#: about a fifth of an eager core's time at 40 GFLOP/s: 300 s of that save the 30 s twice (docs/training-speed.md). The GPU's
#: figure, the same at 100 TFLOP/s, was not measured.
COMPILE_FROM_FLOPS = {"cpu": 1.2e13, "cuda": 3e16}

#: Up to this depth all blocks are compiled as one graph, where residual sums fuse with the norms after them: 10 to 15 % faster
#: than block by block at widths 64 and 128. Its compile time grows with depth, that of a block doesn't.
WHOLE_MODEL_LAYERS = 8

#: Below this many parameters a GPU waits for launches; CUDA graphs replay them at once. Not measured.
CUDA_GRAPHS_BELOW_PARAMETERS = 20_000_000


def compile_model(model: Llama, device: torch.device) -> None:
    """Compile the decoder up to its final norm for the shape of training batches. The loss works in chunks and stays as it is.

    Processes of one user share a cache, so a shape compiles once a machine: later runs take seconds. It holds pickles, and
    so it lies in the user's own cache folder, never beside the runs. Comes after activation checkpointing and precision.
    """
    import torch

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    # A worker compiles one shape after another; past torch's limit of recompilations it would turn eager unsaid.
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # A run has its own cores and no more: without this, inductor starts a pool of processes over all of them.
    torch._inductor.config.compile_threads = torch.get_num_threads()
    _rotate_by_real_products(model)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    is_launch_bound = device.type == "cuda" and n_params < CUDA_GRAPHS_BELOW_PARAMETERS
    mode = "reduce-overhead" if is_launch_bound else "default"
    if len(model.blocks) <= WHOLE_MODEL_LAYERS:
        model.hidden = torch.compile(model.hidden, mode=mode, dynamic=False)  # type: ignore[method-assign]
    else:
        for block in model.blocks:
            block.compile(mode=mode, dynamic=False)


def _rotate_by_real_products(model: Llama) -> None:
    """Inductor fuses the rotation with what stands around it if its products are real; an eager step takes 8 % longer so."""
    import torch

    from llama.model import Attention

    model.rotation_TE = torch.view_as_real(model.rotation_TE).clone()
    for module in model.modules():
        if isinstance(module, Attention):
            module.rotate = rotate_by_real_products


def rotate_by_real_products(x_BTHE: Tensor, rotation_TE2: Tensor) -> Tensor:
    """As `llama.model.rotate`, by a table of cosines and sines [T, E/2, 2]."""
    import torch

    even_BTHE, odd_BTHE = x_BTHE.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos_TE, sin_TE = rotation_TE2[:, None].unbind(-1)
    turned = (even_BTHE * cos_TE - odd_BTHE * sin_TE, even_BTHE * sin_TE + odd_BTHE * cos_TE)
    return torch.stack(turned, dim=-1).flatten(-2).type_as(x_BTHE)


def cache_folder() -> Path:
    """The user's own, and nobody else's to write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoloss" / "inductor"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder
