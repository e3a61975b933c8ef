"""What could never run is refused before anything does, by a plan and a launch alike: it would wait for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.executor import Node
from cluster.placement import fits_somewhere
from cluster.task import Resources
from llama.errors import UserError


def require_feasible(requests: Iterable[tuple[str, Resources]], nodes: Sequence[Node]) -> None:
    """Each request with who makes it.

    Raises:
        UserError: one asks for more than the nodes have when nothing else runs there.
    """
    feasible: dict[Resources, bool] = {}
    for who, resources in requests:
        if resources not in feasible:
            feasible[resources] = fits_somewhere(resources, nodes)
        if not feasible[resources]:
            raise UserError(f"{who} asks for {resources}, but {largest(nodes)}: ask for less, or add a node")


def largest(nodes: Sequence[Node]) -> str:
    """What the nodes have, for a message."""
    biggest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    if biggest is None:
        return "no node is alive"
    alone = f"the largest node has {biggest.cpus:g} CPU and {biggest.gpus} GPU"
    if len(nodes) == 1:
        return alone
    total = f"{sum(node.cpus for node in nodes):g} CPU and {sum(node.gpus for node in nodes)} GPU"
    return f"{alone}, all {len(nodes)} have {total}"
