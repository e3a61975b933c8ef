"""torch.compile: when a run is long enough to earn it, what is compiled, and where the result is kept.

The rule is asked by planning, so torch is imported where something is compiled.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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


def compile_model(model: Llama, device: torch.device, *, micro_batches: int) -> None:
    """Compile the decoder up to its final norm for the shape of training batches. The loss works in chunks and stays as it is.

    Processes of one user share a cache, so a shape compiles once a machine: later runs take seconds. It holds pickles, and
    so it lies in the user's own cache folder, never beside the runs. Comes after activation checkpointing and precision.
    `micro_batches` is how many go into a step.
    """
    import torch

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    # A worker compiles one shape after another; past torch's limit of recompilations it would turn eager unsaid.
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # A run has its own cores and no more: without this, inductor starts a pool of processes over all of them.
    torch._inductor.config.compile_threads = torch.get_num_threads()
    # Rotation by complex products costs 3 % of a compiled step; real ones would cost an eager step 8 %.
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex operators")
    n_params = sum(parameter.numel() for parameter in model.parameters())
    mode = compile_mode(device.type, n_params, micro_batches)
    if len(model.blocks) <= WHOLE_MODEL_LAYERS:
        model.hidden = torch.compile(model.hidden, mode=mode, dynamic=False)  # type: ignore[method-assign]
    else:
        for block in model.blocks:
            block.compile(mode=mode, dynamic=False)


def compile_mode(device: str, n_params: int, micro_batches: int) -> str:
    """Of `torch.compile`. CUDA graphs own the gradients that they leave, so that a second micro-batch has nothing to add to."""
    is_launch_bound = device == "cuda" and n_params < CUDA_GRAPHS_BELOW_PARAMETERS
    return "reduce-overhead" if is_launch_bound and micro_batches == 1 else "default"


def cache_folder() -> Path:
    """The user's own, and nobody else's to write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoloss" / "inductor"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder
