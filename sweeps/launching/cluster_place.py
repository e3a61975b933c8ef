"""What a standing cluster is, as its nodes tell it: the launcher's own machine may have no GPU, or another one."""

from __future__ import annotations

from cluster.executor import Executor
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from llama.errors import UserError
from sweeps.hardware.machine import Machine
from sweeps.hardware.place import Place
from sweeps.launching import worker


def cluster_place(executor: Executor) -> Place:
    """Its nodes, and the machine that runs train on: a worker on one of them says which, on a GPU where there are any.

    Raises:
        UserError: no node answered.
    """
    nodes = tuple(executor.capacity())
    resources = Resources(gpus=0.01 if any(node.gpus for node in nodes) else 0.0)
    task = Task(id="machine", function=worker.describe_machine, resources=resources)
    summary = Supervisor([task], executor).run()
    if not summary.ok:
        raise UserError(f"the cluster's machines are not known: {summary.failed[task.id].message}")
    machine = Machine(**summary.done[task.id])
    if resources.gpus and machine.device != "cuda":
        raise UserError(f"a worker on the cluster's GPUs can't use them: its torch is {machine.torch_version}")
    return Place(machine=machine, nodes=nodes)
