"""A Ray of the sweep's own on this machine, for a launch and for a tuning study without `--address`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from cluster.executor import Executor
from cluster.mps import sharing_gpus
from cluster.session import open_session
from sweeps.hardware.place import Place
from sweeps.planning.prepare import Prepared, run_resources


@contextmanager
def own_ray(prepared: Prepared, place: Place, *, say: Callable[[str], None]) -> Iterator[Executor]:
    """All of the place's cores and GPUs; runs that are to share a GPU do so through MPS where it is there."""
    with ExitStack() as stack:
        if 0 < run_resources(prepared.design, place, prepared.calibration).gpus < 1:
            stack.enter_context(sharing_gpus(say))
        yield stack.enter_context(open_session(cpus=place.cpus, gpus=place.gpus, preload=["llama.trainer"]))
