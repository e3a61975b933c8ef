"""Which node has room: the supervisor's ledger of who takes what. Pure bookkeeping, the same for real and simulated nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cluster.executor import Node
from cluster.task import Resources

#: Ray counts resources in ten-thousandths; so do we, and shares of a GPU add up exactly.
UNIT = 10_000


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one attempt holds of one node, in units."""

    node_id: str
    cpus: int
    gpus: tuple[int, ...]
    """Indices of the GPUs that it holds a share of, or all."""
    gpu_share: int
    """Units of each."""
    whole_node: bool


@dataclass(frozen=True)
class _Need:
    """`Resources` in units."""

    cpus: int
    gpus: int
    gpu_share: int
    whole_node: bool


@lru_cache(maxsize=1024)
def _need(resources: Resources) -> _Need:
    shared = 0 < resources.gpus < 1
    return _Need(
        cpus=round(resources.cpus * UNIT),
        gpus=1 if shared else int(resources.gpus),
        gpu_share=round(resources.gpus * UNIT) if shared else UNIT,
        whole_node=resources.whole_node,
    )


class _Room:
    """A node and what is left of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.free_cpus = round(node.cpus * UNIT)
        self.free_gpus = [UNIT] * node.gpus
        self.free_gpu_units = UNIT * node.gpus
        self.holders = 0
        self.closed = False
        """A whole-node attempt holds it."""

    def copy(self) -> _Room:
        other = _Room(self.node)
        other.free_cpus, other.free_gpus, other.free_gpu_units = self.free_cpus, self.free_gpus[:], self.free_gpu_units
        other.holders, other.closed = self.holders, self.closed
        return other

    def fits(self, need: _Need) -> bool:
        if self.closed or need.cpus > self.free_cpus or (need.whole_node and self.holders):
            return False
        if need.gpus * need.gpu_share > self.free_gpu_units:  # cheap, and true of most full nodes
            return False
        return sum(free >= need.gpu_share for free in self.free_gpus) >= need.gpus if need.gpus else True

    def placement(self, need: _Need) -> Placement:
        """Where it goes, given that it fits: on the fullest GPUs that still have the share, so that others stay whole."""
        able = sorted((free, index) for index, free in enumerate(self.free_gpus) if free >= need.gpu_share)
        return Placement(
            node_id=self.node.id,
            cpus=need.cpus,
            gpus=tuple(index for _, index in able[: need.gpus]),
            gpu_share=need.gpu_share,
            whole_node=need.whole_node,
        )

    def take(self, placement: Placement) -> None:
        self._book(placement, -1)
        self.closed = placement.whole_node

    def give_back(self, placement: Placement) -> None:
        self._book(placement, +1)
        self.closed = False  # a whole-node attempt was alone

    def _book(self, placement: Placement, sign: int) -> None:
        self.holders -= sign
        self.free_cpus += sign * placement.cpus
        for index in placement.gpus:
            self.free_gpus[index] += sign * placement.gpu_share
            self.free_gpu_units += sign * placement.gpu_share


def fits_somewhere(resources: Resources, nodes: Iterable[Node]) -> bool:
    """Whether any of the nodes could run it when empty."""
    return any(_Room(node).fits(_need(resources)) for node in nodes)


class Ledger:
    """Who holds what of which node."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """Nodes that joined start empty. Those that left are forgotten with all that was held of them."""
        self._rooms = {node.id: self._rooms.get(node.id) or _Room(node) for node in nodes}

    @property
    def nodes(self) -> list[Node]:
        return [room.node for room in self._rooms.values()]

    def find(self, resources: Resources, *, excluding: str | None = None) -> Placement | None:
        """A place for it now, on the fullest node that has one: what stays free stays together, for larger tasks."""
        need = _need(resources)
        rooms = [room for room in self._rooms.values() if room.fits(need) and room.node.id != excluding]
        fullest = min(rooms, key=lambda room: (room.free_gpu_units, room.free_cpus), default=None)
        return fullest.placement(need) if fullest else None

    def take(self, placement: Placement) -> None:
        self._rooms[placement.node_id].take(placement)

    def give_back(self, placement: Placement) -> None:
        """What was held of a node that left is gone with it."""
        if placement.node_id in self._rooms:
            self._rooms[placement.node_id].give_back(placement)

    def fits_at(self, resources: Resources, node_id: str, ends: Iterable[tuple[float, Placement]]) -> float | None:
        """When the node has room for it, if those who hold it end as `ends` foretells; None if even then it has not."""
        need, room = _need(resources), self._rooms.get(node_id)
        if room is None:
            return None
        trial = room.copy()
        for end, placement in sorted(ends, key=lambda item: item[0]):
            trial.give_back(placement)
            if trial.fits(need):
                return end
        return None
