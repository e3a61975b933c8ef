"""The ledger: what fits, where it goes, and that nothing is given away twice."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.executor import Node
from cluster.placement import UNIT, Ledger, Placement, fits_somewhere
from cluster.task import Resources


def ledger_of(*nodes: Node) -> Ledger:
    ledger = Ledger()
    ledger.set_nodes(nodes)
    return ledger


def placed(ledger: Ledger, resources: Resources):
    """Takes room for a task of one member, and returns its share."""
    placement = ledger.find(resources)
    assert placement is not None
    ledger.take(placement)
    (share,) = placement
    return share


def test_shares_of_a_gpu_fill_one_before_the_next():
    ledger = ledger_of(Node(id="n", cpus=8, gpus=2))
    share = Resources(cpus=1, gpus=0.3)
    assert [placed(ledger, share).gpus for _ in range(6)] == [(0,), (0,), (0,), (1,), (1,), (1,)]
    assert ledger.find(share) is None  # 0.1 and 0.1 are left, which is not 0.3 of one


def test_whole_gpus_are_not_made_up_of_shares():
    ledger = ledger_of(Node(id="n", cpus=8, gpus=2))
    placed(ledger, Resources(gpus=0.5))
    assert ledger.find(Resources(gpus=2)) is None
    assert placed(ledger, Resources(gpus=1)).gpus == (1,)


def test_small_tasks_gather_so_that_a_node_stays_whole():
    ledger = ledger_of(Node(id="a", cpus=4), Node(id="b", cpus=4))
    assert {placed(ledger, Resources(cpus=1)).node_id for _ in range(4)} == {"a"}
    assert placed(ledger, Resources(whole_node=True)).node_id == "b"


def test_a_whole_node_task_waits_for_an_empty_node_and_keeps_it_empty():
    ledger = ledger_of(Node(id="n", cpus=4))
    small = placed(ledger, Resources(cpus=1))
    assert ledger.find(Resources(cpus=1, whole_node=True)) is None
    ledger.give_back((small,))
    alone = placed(ledger, Resources(cpus=1, whole_node=True))
    assert ledger.find(Resources(cpus=1)) is None
    ledger.give_back((alone,))
    assert ledger.find(Resources(cpus=4)) is not None


def test_a_node_that_left_takes_what_was_held_with_it():
    ledger = ledger_of(Node(id="a", cpus=1), Node(id="b", cpus=1))
    held = placed(ledger, Resources())
    ledger.set_nodes([node for node in ledger.nodes if node.id != held.node_id])
    ledger.give_back((held,))
    assert placed(ledger, Resources()).node_id != held.node_id
    assert ledger.find(Resources()) is None


def test_when_there_will_be_room_and_where():
    ledger = ledger_of(Node(id="n", cpus=4), Node(id="small", cpus=1))
    ends = [(seconds, (placed(ledger, Resources(cpus=1)),)) for seconds in (5.0, 30.0, 10.0, 20.0, 25.0)]
    n = frozenset({"n"})
    assert ledger.earliest(Resources(cpus=2), ends) == (20.0, n)
    assert ledger.earliest(Resources(cpus=1, whole_node=True), ends) == (5.0, frozenset({"small"}))
    assert ledger.earliest(Resources(cpus=1, whole_node=True), ends, among=n) == (30.0, n)
    assert ledger.earliest(Resources(cpus=1, members=3), ends) == (20.0, frozenset({"n", "small"}))
    assert ledger.earliest(Resources(cpus=5), ends) is None
    assert ledger.earliest(Resources(), ends, among={"gone"}) is None


def test_a_gang_goes_to_as_few_nodes_as_hold_it_and_fills_the_last():
    nodes = [Node(id=id, cpus=64, gpus=gpus) for id, gpus in (("a", 8), ("b", 2), ("c", 4), ("d", 8))]
    ledger = ledger_of(*nodes)
    gang = ledger.find(Resources(gpus=1, members=12))
    assert gang is not None
    assert Counter(share.node_id for share in gang) == {"d": 8, "c": 4}
    assert sorted(share.gpus for share in gang if share.node_id == "c") == [(0,), (1,), (2,), (3,)]
    ledger.take(gang)
    assert ledger.find(Resources(gpus=8, members=2)) is None
    assert ledger.find(Resources(gpus=1, members=11)) is None
    assert ledger.find(Resources(gpus=1, members=10), excluding={"b"}) is None
    ledger.give_back(gang)
    whole = ledger.find(Resources(gpus=8, members=2))
    assert whole is not None
    assert sorted(share.node_id for share in whole) == ["a", "d"]


def test_infeasible_is_judged_by_empty_nodes():
    nodes = [Node(id="a", cpus=64, gpus=0), Node(id="b", cpus=4, gpus=8)]
    assert fits_somewhere(Resources(cpus=64), nodes)
    assert fits_somewhere(Resources(cpus=4, gpus=8), nodes)
    assert not fits_somewhere(Resources(cpus=5, gpus=1), nodes)
    assert not fits_somewhere(Resources(), [])
    assert fits_somewhere(Resources(cpus=34, members=1), nodes)
    assert not fits_somewhere(Resources(cpus=34, members=2), nodes)
    assert fits_somewhere(Resources(cpus=2, members=34), nodes)


@pytest.mark.parametrize("gpus", [-1, 1.5, 2.25])
def test_impossible_gpu_counts_are_refused(gpus: float):
    with pytest.raises(ValueError, match="gpus is"):
        Resources(gpus=gpus)


sizes = st.builds(
    Resources,
    cpus=st.sampled_from([0.5, 1, 2, 3]),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
    whole_node=st.booleans(),
    members=st.integers(1, 3),
)


@given(st.lists(st.tuples(sizes, st.integers(0, 5), st.sets(st.sampled_from("ab"), max_size=1))))
def test_no_node_or_gpu_is_ever_given_away_twice(steps: list[tuple[Resources, int, set[str]]]):
    nodes = {"a": Node(id="a", cpus=4, gpus=2), "b": Node(id="b", cpus=3, gpus=1)}
    ledger = ledger_of(*nodes.values())
    held: list[Placement] = []
    for resources, release, excluding in steps:
        if held and release == 0:
            ledger.give_back(held.pop())
        placement = ledger.find(resources, excluding=excluding)
        if placement is not None:
            assert len(placement) == resources.members
            assert excluding.isdisjoint(share.node_id for share in placement)
            ledger.take(placement)
            held.append(placement)
        for id, node in nodes.items():
            here = [share for one in held for share in one if share.node_id == id]
            assert sum(one.cpus for one in here) <= node.cpus * UNIT
            for gpu in range(node.gpus):
                assert sum(one.gpu_share for one in here if gpu in one.gpus) <= UNIT
            assert len(here) <= 1 or not any(one.whole_node for one in here)
    for placement in held:
        ledger.give_back(placement)
    assert placed(ledger, Resources(cpus=4, gpus=2, whole_node=True)).node_id == "a"
    assert placed(ledger, Resources(cpus=3, gpus=1, whole_node=True)).node_id == "b"
