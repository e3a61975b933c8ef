"""Where a sweep runs or would run: this machine, the nodes of a standing cluster, or a cluster that has only a name."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from cluster.executor import Node
from cluster.machine import available_cpus, visible_gpus
from llama.accelerators import Accelerator, named_by_driver
from sweeps.hardware.machine import Machine, this_machine
from sweeps.hardware.named_cluster import NamedCluster


@dataclass(frozen=True, kw_only=True)
class Place:
    """What runs may use."""

    machine: Machine
    """What each of them trains on."""
    nodes: tuple[Node, ...]
    memory_bytes: int | None = None
    """What runs on a CPU share; None where it isn't known: on GPUs, and on other machines."""
    cluster: NamedCluster | None = None
    """The named cluster, for a plan."""

    @property
    def cpus(self) -> int:
        return int(sum(node.cpus for node in self.nodes))

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def accelerator(self) -> Accelerator | None:
        """The GPU's figures; None on CPUs and on a GPU that isn't known."""
        if self.cluster is not None:
            return self.cluster.accelerator
        return named_by_driver(self.machine.name) if self.gpus else None


def this_place() -> Place:
    """The machine at hand: the cores this process may use, and its GPUs if torch can use them."""
    machine = this_machine()
    gpus = len(visible_gpus()) if machine.device == "cuda" else 0
    memory = psutil.virtual_memory().total if gpus == 0 else None
    node = Node(id="here", name="this machine", cpus=float(available_cpus()), gpus=gpus)
    return Place(machine=machine, nodes=(node,), memory_bytes=memory)


def named_place(cluster: NamedCluster) -> Place:
    """A cluster that need not exist. Its torch is taken to be the one installed here."""
    machine = Machine("cuda", cluster.accelerator.driver_name, this_machine().torch_version)
    return Place(machine=machine, nodes=cluster.nodes(), cluster=cluster)
