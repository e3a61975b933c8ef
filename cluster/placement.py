"""Which node has room: the supervisor's ledger of who takes what. Pure bookkeeping, the same for real and simulated nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.executor import Node
from cluster.task import Resources

#: Ray counts resources in ten-thousandths; so do we, and shares of a GPU add up exactly.
UNIT = 10_000


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one attempt holds of one node, in units."""

    node_id: str
    cpus: int
    gpus: tuple[tuple[int, int], ...] = ()
    """(index, units) of each GPU that it holds a share of."""
    whole_node: bool = False


@dataclass(kw_only=True)
class _Room:
    """A node and what is left of it."""

    node: Node
    free_cpus: int
    free_gpus: list[int]
    holders: int = 0
    closed: bool = False
    """A whole-node attempt holds it."""

    def fit(self, resources: Resources) -> Placement | None:
        cpus = round(resources.cpus * UNIT)
        if self.closed or cpus > self.free_cpus or (resources.whole_node and self.holders):
            return None
        share, count = (round(resources.gpus * UNIT), 1) if 0 < resources.gpus < 1 else (UNIT, int(resources.gpus))
        # The fullest GPU that still has the share, so that others stay whole.
        able = sorted((free, index) for index, free in enumerate(self.free_gpus) if free >= share) if count else []
        if len(able) < count:
            return None
        gpus = tuple((index, share) for _, index in able[:count])
        return Placement(node_id=self.node.id, cpus=cpus, gpus=gpus, whole_node=resources.whole_node)

    def take(self, placement: Placement, sign: int = 1) -> None:
        """Book it, or give it back with `sign` -1."""
        self.free_cpus -= sign * placement.cpus
        for index, units in placement.gpus:
            self.free_gpus[index] -= sign * units
        self.holders += sign
        self.closed = placement.whole_node and sign > 0


def _empty_room(node: Node) -> _Room:
    return _Room(node=node, free_cpus=round(node.cpus * UNIT), free_gpus=[UNIT] * node.gpus)


def fits_somewhere(resources: Resources, nodes: Iterable[Node]) -> bool:
    """Whether any of the nodes could run it when empty."""
    return any(_empty_room(node).fit(resources) for node in nodes)


@dataclass
class Ledger:
    """Who holds what of which node."""

    _rooms: dict[str, _Room] = field(default_factory=dict)

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """Nodes that joined start empty. Those that left are forgotten with all they held."""
        current = {node.id: node for node in nodes}
        self._rooms = {id: self._rooms.get(id) or _empty_room(node) for id, node in current.items()}

    @property
    def nodes(self) -> list[Node]:
        return [room.node for room in self._rooms.values()]

    def has_node(self, node_id: str) -> bool:
        return node_id in self._rooms

    def find(self, resources: Resources, excluding: str | None = None) -> Placement | None:
        """A place for it now, on the fullest node that has one: what stays free stays together, for larger tasks."""
        fits = (
            (sum(room.free_gpus), room.free_cpus, placement)
            for id, room in self._rooms.items()
            if id != excluding and (placement := room.fit(resources))
        )
        best = min(fits, key=lambda fit: fit[:2], default=None)
        return best[2] if best else None

    def take(self, placement: Placement) -> None:
        self._rooms[placement.node_id].take(placement)

    def give_back(self, placement: Placement) -> None:
        """What a node that left held is gone with it."""
        if placement.node_id in self._rooms:
            self._rooms[placement.node_id].take(placement, sign=-1)

    def earliest(self, resources: Resources, ends: Iterable[tuple[float, Placement]]) -> tuple[str, float] | None:
        """The node that could run it first and when, if every holder gives back at the end that `ends` foretells.

        The reservation of EASY backfilling (Lifka 1995): what is smaller may go before only if it is out of the way by then.
        """
        trial = Ledger()
        trial._rooms = {
            id: _Room(
                node=room.node,
                free_cpus=room.free_cpus,
                free_gpus=list(room.free_gpus),
                holders=room.holders,
                closed=room.closed,
            )
            for id, room in self._rooms.items()
        }
        for end, placement in sorted(ends, key=lambda item: item[0]):
            if not trial.has_node(placement.node_id):
                continue
            trial.give_back(placement)
            if trial._rooms[placement.node_id].fit(resources):
                return placement.node_id, end
        return None
