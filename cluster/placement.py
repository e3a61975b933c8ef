"""Which node has room: the supervisor's ledger of who takes what. Pure bookkeeping, the same for real and simulated nodes.

For each kind of request that it was ever asked for, the ledger keeps how many members every node could take now. An attempt
that starts or ends changes its own nodes alone, so the work of a step doesn't grow with the cluster.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cluster.executor import Node
from cluster.task import Resources

#: Ray counts resources in ten-thousandths; so do we, and shares of a GPU add up exactly.
UNIT = 10_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one member of an attempt holds of one node, in units."""

    node_id: str
    cpus: int
    gpus: tuple[int, ...]
    """Indices of the GPUs that it holds a share of, or all."""
    gpu_share: int
    """Units of each."""
    whole_node: bool


Placement = tuple[Share, ...]
"""What an attempt holds: one share a member, by rank."""


@dataclass(frozen=True)
class _Need:
    """What `Resources` ask for each member, in units."""

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

    def __init__(self, node: Node, order: int = 0) -> None:
        self.node = node
        self.order = order
        self.free_cpus = round(node.cpus * UNIT)
        self.free_gpus = [UNIT] * node.gpus
        self.free_gpu_units = UNIT * node.gpus
        self.holders = 0
        self.closed = False
        """A whole-node attempt holds it."""
        self.changes = 0

    def copy(self) -> _Room:
        other = _Room(self.node, self.order)
        other.free_cpus, other.free_gpus, other.free_gpu_units = self.free_cpus, self.free_gpus[:], self.free_gpu_units
        other.holders, other.closed = self.holders, self.closed
        return other

    def slots(self, need: _Need) -> int:
        """How many members it could take now."""
        if self.closed or need.cpus > self.free_cpus or (need.whole_node and self.holders):
            return 0
        by_cpus = 1 if need.whole_node else self.free_cpus // need.cpus
        if not need.gpus:
            return by_cpus
        if need.gpus * need.gpu_share > self.free_gpu_units:  # cheap, and true of most full nodes
            return 0
        return min(by_cpus, sum(free // need.gpu_share for free in self.free_gpus) // need.gpus)

    def share(self, need: _Need) -> Share:
        """What a member gets, given that it fits: the fullest GPUs that still have the share, so that others stay whole."""
        able = sorted((free, index) for index, free in enumerate(self.free_gpus) if free >= need.gpu_share)
        return Share(
            node_id=self.node.id,
            cpus=need.cpus,
            gpus=tuple(index for _, index in able[: need.gpus]),
            gpu_share=need.gpu_share,
            whole_node=need.whole_node,
        )

    def take(self, share: Share) -> None:
        self._book(share, -1)
        self.closed = share.whole_node

    def give_back(self, share: Share) -> None:
        self._book(share, +1)
        self.closed = False  # a whole-node attempt was alone

    def _book(self, share: Share, sign: int) -> None:
        self.changes += 1
        self.holders -= sign
        self.free_cpus += sign * share.cpus
        for index in share.gpus:
            self.free_gpus[index] += sign * share.gpu_share
            self.free_gpu_units += sign * share.gpu_share


class _Index:
    """Where one kind of member fits now."""

    def __init__(self, need: _Need, rooms: Iterable[_Room]) -> None:
        self.need = need
        self.slots: dict[str, int] = {}
        """By node, how many members it could take; nodes that could take none are left out."""
        self.total = 0
        self._fullest: list[tuple[int, int, int, int, str]] = []
        for room in rooms:
            self.update(room)

    def update(self, room: _Room) -> None:
        id, slots = room.node.id, room.slots(self.need)
        self.total += slots - self.slots.pop(id, 0)
        if slots:
            self.slots[id] = slots
            entry = (room.free_gpu_units, room.free_cpus, room.order, room.changes, id)
            heapq.heappush(self._fullest, entry)

    def fullest(self, rooms: Mapping[str, _Room], excluding: Collection[str]) -> _Room | None:
        """The node with the least left that still has room. Entries of what a node was before are dropped on the way."""
        if len(self._fullest) > 8 * len(rooms) + 64:
            self._fullest = [entry for entry in self._fullest if self._holds(entry, rooms)]
            heapq.heapify(self._fullest)
        aside = []
        found = None
        while self._fullest and found is None:
            entry = self._fullest[0]
            if not self._holds(entry, rooms):
                heapq.heappop(self._fullest)
            elif entry[-1] in excluding:
                aside.append(heapq.heappop(self._fullest))
            else:
                found = rooms[entry[-1]]
        for entry in aside:
            heapq.heappush(self._fullest, entry)
        return found

    def _holds(self, entry: tuple[int, int, int, int, str], rooms: Mapping[str, _Room]) -> bool:
        id = entry[-1]
        return id in self.slots and rooms[id].changes == entry[3]


def fits_somewhere(resources: Resources, nodes: Iterable[Node]) -> bool:
    """Whether the nodes could run it when empty."""
    return sum(_Room(node).slots(_need(resources)) for node in nodes) >= resources.members


class Ledger:
    """Who holds what of which node."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}
        self._indices: dict[_Need, _Index] = {}

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """Nodes that joined start empty. Those that left are forgotten with all that was held of them."""
        nodes = list(nodes)
        if [node.id for node in nodes] == list(self._rooms):
            return
        self._rooms = {node.id: self._rooms.get(node.id) or _Room(node) for node in nodes}
        for order, room in enumerate(self._rooms.values()):
            room.order = order
        self._indices.clear()

    @property
    def nodes(self) -> list[Node]:
        return [room.node for room in self._rooms.values()]

    def changes(self, node_ids: Iterable[str]) -> int:
        """Grows with everything taken of or given back to these nodes; -1 when one of them has left."""
        if any(id not in self._rooms for id in node_ids):
            return -1
        return sum(self._rooms[id].changes for id in node_ids)

    def find(self, resources: Resources, *, excluding: Collection[str] = ()) -> Placement | None:
        """A place for it now, on the fullest node that has one: what stays free stays together, for larger tasks. A gang goes
        to as few nodes as can hold it.
        """
        need = _need(resources)
        index = self._index(need)
        total = index.total - sum(index.slots.get(id, 0) for id in excluding)
        if total < resources.members:
            return None
        if resources.members == 1:
            room = index.fullest(self._rooms, excluding)
            return (room.share(need),) if room else None
        open_slots = {id: slots for id, slots in index.slots.items() if id not in excluding}
        shares: list[Share] = []
        for id, members in _spread(open_slots, resources.members).items():
            trial = self._rooms[id].copy()
            for _ in range(members):
                shares.append(trial.share(need))
                trial.take(shares[-1])
        return tuple(shares)

    def take(self, placement: Placement) -> None:
        for share in placement:
            self._rooms[share.node_id].take(share)
        self._update(placement)

    def give_back(self, placement: Placement) -> None:
        """What was held of a node that left is gone with it."""
        for share in placement:
            if share.node_id in self._rooms:
                self._rooms[share.node_id].give_back(share)
        self._update(placement)

    def earliest(
        self, resources: Resources, ends: Iterable[tuple[float, Placement]], *, among: Collection[str] | None = None
    ) -> tuple[float, frozenset[str]] | None:
        """When there is room for it, and on which nodes, if those who hold them end as `ends` foretells; `among` these nodes
        or all. None if even then there is not.
        """
        need = _need(resources)
        now_slots = self._index(need).slots
        slots = dict(now_slots) if among is None else {id: now_slots[id] for id in among if id in now_slots}
        total, trials = sum(slots.values()), dict[str, _Room]()
        for end, placement in sorted(ends, key=lambda item: item[0]):
            for share in placement:
                id = share.node_id
                if id not in self._rooms or (among is not None and id not in among):
                    continue
                trial = trials.get(id) or trials.setdefault(id, self._rooms[id].copy())
                trial.give_back(share)
                then = trial.slots(need)
                total += then - slots.get(id, 0)
                slots[id] = then
            if total >= resources.members:
                return end, frozenset(_spread(slots, resources.members))
        return None

    def _index(self, need: _Need) -> _Index:
        if need not in self._indices:
            self._indices[need] = _Index(need, self._rooms.values())
        return self._indices[need]

    def _update(self, placement: Placement) -> None:
        for id in {share.node_id for share in placement}:
            room = self._rooms.get(id)
            if room is not None:
                for index in self._indices.values():
                    index.update(room)


def _spread(slots: Mapping[str, int], members: int) -> dict[str, int]:
    """How many members each node takes: the roomiest nodes in full, and what is left to the one that it fills best."""
    by_slots = sorted((count, id) for id, count in slots.items() if count)
    spread = {}
    while members:
        position = bisect_left(by_slots, (members, ""))
        count, id = by_slots.pop(min(position, len(by_slots) - 1))
        spread[id] = min(count, members)
        members -= spread[id]
    return spread
