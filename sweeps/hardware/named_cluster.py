"""A cluster by its name: `64xH100` is eight nodes of eight, `2x4xA100-40GB` two nodes of four."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.executor import Node
from llama.accelerators import ACCELERATORS, Accelerator
from llama.errors import UserError
from sweeps.yaml_lines import nearest

#: GPUs of a node where the name does not say: NVIDIA's HGX boards, and so most clouds' largest instances, hold eight.
NODE_GPUS = 8

#: Cores for each GPU: what AWS's p5 has (192 threads for eight H100). Runs take one core each unless the sweep says otherwise.
CORES_PER_GPU = 12

MOST_GPUS = 100_000

_NAME = re.compile(r"(?:(?P<nodes>[1-9]\d*)x)?(?P<gpus>[1-9]\d*)x(?P<device>[a-z].*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class NamedCluster:
    """GPUs of one model, on nodes that are alike but for a smaller last one."""

    accelerator: Accelerator
    node_gpus: tuple[int, ...]
    """GPUs of each node."""

    @property
    def gpus(self) -> int:
        return sum(self.node_gpus)

    @property
    def name(self) -> str:
        """The shortest name that means it."""
        if self.node_gpus == _full_nodes(self.gpus):
            return f"{self.gpus}x{self.accelerator.name}"
        return f"{len(self.node_gpus)}x{self.node_gpus[0]}x{self.accelerator.name}"

    @property
    def layout(self) -> str:
        """Its nodes, in words."""
        first, last = self.node_gpus[0], self.node_gpus[-1]
        alike = sum(gpus == first for gpus in self.node_gpus)
        rest = f" and one of {last}" if last != first else ""
        return f"{alike} node{'s' if alike > 1 else ''} of {first}{rest}, {CORES_PER_GPU} cores a GPU"

    def nodes(self) -> tuple[Node, ...]:
        return tuple(
            Node(id=f"node{index:04d}", name=f"node {index}", cpus=float(gpus * CORES_PER_GPU), gpus=gpus)
            for index, gpus in enumerate(self.node_gpus)
        )


def parse_cluster(name: str) -> NamedCluster:
    """`[NODESx]GPUSxDEVICE`: with two numbers so many nodes of so many GPUs, with one the GPUs in all, on nodes of eight.

    Raises:
        UserError: it is no such name, or the device is not known.
    """
    found = _NAME.fullmatch(name.strip())
    known = ", ".join(card.name for card in ACCELERATORS)
    if found is None:
        raise UserError(
            f"--cluster is {name!r}: GPUs and their model are right, as 64xH100 or, with nodes of four, 2x4xH100; "
            f"models: {known}"
        )
    device, gpus = found["device"], int(found["gpus"])
    nodes = None if found["nodes"] is None else int(found["nodes"])
    accelerator = next((card for card in ACCELERATORS if card.name.lower() == device.lower()), None)
    if accelerator is None:
        alike = [card.name for card in ACCELERATORS if card.name.lower().startswith(f"{device.lower()}-")]
        hint = (
            f" (did you mean {' or '.join(alike)}?)" if alike else nearest(device, [card.name for card in ACCELERATORS])
        )
        raise UserError(f"--cluster is {name!r}: the model {device!r} is not known{hint}; known are {known}")
    if gpus * (nodes or 1) > MOST_GPUS:
        raise UserError(f"--cluster is {name!r}: {MOST_GPUS:,} GPUs at most are planned for")
    return NamedCluster(accelerator=accelerator, node_gpus=_full_nodes(gpus) if nodes is None else (gpus,) * nodes)


def _full_nodes(gpus: int) -> tuple[int, ...]:
    full, rest = divmod(gpus, NODE_GPUS)
    return (NODE_GPUS,) * full + ((rest,) if rest else ())
