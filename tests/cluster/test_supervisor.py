"""The supervisor on simulated nodes and time: its states, order, budgets, and what it does when things go."""

from __future__ import annotations

import math
import re
import signal
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cluster import supervisor
from cluster.executor import Finished, Node
from cluster.simulation import SimulatedClock, SimulatedExecutor
from cluster.states import TRANSITIONS, Event, Orders, Policy, State, Summary
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Outcome, Resources, Succeeded, Task
from llama.errors import UserError
from tests.cluster import jobs

TWO_CORES = (Node(id="n", cpus=2),)
Fate = Callable[[Task, int], tuple[float, Outcome]]


def task(id: str, *needs: str, seconds: float = 1.0, resources: Resources | None = None) -> Task:
    return Task(
        id=id,
        function=jobs.give,
        needs=frozenset(needs),
        estimated_seconds=seconds,
        resources=resources or Resources(),
    )


def failing(kind: FailureKind, times: float = float("inf"), only: str | None = None) -> Fate:
    """An attempt's fate: the first `times` attempts fail."""

    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        if attempt <= times and only in (None, task.id):
            return 1.0, Failed(kind=kind, message="as told", seconds=1.0)
        return task.estimated_seconds, Succeeded(value=attempt, seconds=task.estimated_seconds)

    return fate


class World:
    """A supervisor on simulated nodes, with what happened."""

    def __init__(self, tasks: list[Task], nodes: tuple[Node, ...] = TWO_CORES, fate: Fate | None = None, **more):
        self.clock = SimulatedClock()
        self.executor = SimulatedExecutor(nodes, self.clock, fate)
        self.events: list[Event] = []
        self.supervisor = Supervisor(tasks, self.executor, on_event=self.events.append, clock=self.clock, **more)

    def run(self) -> Summary:
        return self.supervisor.run()

    def path(self, id: str) -> list[State]:
        return [event.state for event in self.events if event.task.id == id]

    def started(self) -> list[str]:
        return [event.task.id for event in self.events if event.state is State.RUNNING]

    def start_of(self, id: str) -> float:
        return next(event.seconds for event in self.events if event.task.id == id and event.state is State.RUNNING)


# -- states: the diagram in the supervisor's docstring, walked -------------------------------------------------------------

Arrow = tuple[State, State]


@cache
def diagram() -> set[Arrow]:
    """The arrows of the docstring: `A, B ---- why ---> C <--- why ---- D`."""
    name, found = r"[A-Z]+(?:, [A-Z]+)*", set[Arrow]()
    assert supervisor.__doc__ is not None
    for line in re.findall(rf"^    (?={name} -).*", supervisor.__doc__, re.MULTILINE):
        parts = re.split(r" (---- [^<>]* --->|<--- [^<>]* ----) ", line.strip())
        for left, arrow, right in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            before, after = (left, right) if arrow.endswith(">") else (right, left)
            found |= {(State(one.lower()), State(after.lower())) for one in before.split(", ")}
    return found


def test_the_diagram_has_the_arrows_of_the_table_and_no_others():
    assert diagram() == {(before, after) for before, after_all in TRANSITIONS.items() for after in after_all}


class Walk(RuleBasedStateMachine):
    """Two tasks, the second of which needs the first, on nodes that are there or not, led about by whatever can happen."""

    taken: ClassVar[Counter[Arrow]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.exists: set[str] = set()
        self.paused: set[str] = set()
        self.cancelled: set[str] = set()
        self.world = World(
            [task("first"), task("second", "first")],
            fate=lambda task, attempt: (math.inf, Succeeded(value=None)),
            is_done=lambda task: task.id in self.exists,
            orders=lambda: Orders(paused=frozenset(self.paused), cancelled=frozenset(self.cancelled)),
            policy=Policy(failures=1, preemptions=1, no_node_seconds=30, poll_seconds=1, watch_seconds=1),
        )
        self.before = dict(self.world.supervisor.states)
        self.world.supervisor._on_event = self.note
        self.begun = False

    def note(self, event: Event) -> None:
        arrow = (self.before[event.task.id], event.state)
        assert arrow in diagram()
        Walk.taken[arrow] += 1
        self.before[event.task.id] = event.state
        assert self.world.supervisor.states == self.before

    @initialize(exists=st.sets(st.sampled_from(["first", "second"]), max_size=1), later=st.booleans())
    def begin(self, exists: set[str], later: bool) -> None:
        if not later:
            self.exists |= exists
        self.world.supervisor._start()
        self.exists |= exists

    @rule(seconds=st.sampled_from([2, 100]))
    def look(self, seconds: float = 2) -> None:
        self.world.clock.advance_to(self.world.clock.now() + seconds)
        self.world.supervisor._step()

    @rule(id=st.sampled_from(["first", "second"]))
    def pause(self, id: str) -> None:
        self.paused.add(id)
        self.look()

    @rule()
    def resume(self) -> None:
        self.paused.clear()
        self.cancelled.clear()
        self.look()

    @rule(id=st.sampled_from(["first", "second"]))
    def cancel(self, id: str) -> None:
        self.cancelled.add(id)
        self.look()

    @rule(kind=st.sampled_from([None, FailureKind.CRASHED, FailureKind.PREEMPTED, FailureKind.USER_ERROR]))
    def end(self, kind: FailureKind | None) -> None:
        """Whatever runs comes to this end."""
        outcome = Succeeded(value=None) if kind is None else Failed(kind=kind, message="as told")
        for id, attempt in sorted(self.world.executor._live):
            self.world.executor._push(self.world.clock.now(), id, attempt, outcome)
        self.world.supervisor._step()

    @rule(there=st.booleans())
    def nodes(self, there: bool) -> None:
        self.world.executor.nodes = list(TWO_CORES) if there else []
        self.look()

    @invariant()
    def who_waits_needs_something(self) -> None:
        states = self.world.supervisor.states
        if states["second"] is State.WAITING and self.world.events:
            assert states["first"] not in (State.DONE, State.SKIPPED, State.FAILED)

    @invariant()
    def only_running_tasks_have_attempts(self) -> None:
        running = {id for id, state in self.world.supervisor.states.items() if state is State.RUNNING}
        assert {attempt.task.id for attempt in self.world.supervisor._running} == running

    @invariant()
    def only_ready_tasks_wait_in_the_queue(self) -> None:
        ready = {id for id, state in self.world.supervisor.states.items() if state is State.READY}
        assert self.world.supervisor._queue._waiting == ready


def test_every_arrow_of_the_diagram_is_walked():
    Walk.taken.clear()
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=400,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
        ),
    )
    assert Walk.taken.keys() == diagram()


# -- pause, resume, cancel ----------------------------------------------------------------------------------------------


class Asked(World):
    """A world in which people ask for things at set times."""

    def __init__(self, tasks: list[Task], asked: dict[float, Orders], **more):
        def orders() -> Orders:
            heard = [seconds for seconds in asked if seconds <= self.clock.now()]
            return asked[max(heard)] if heard else Orders()

        super().__init__(tasks, orders=orders, **more)


def test_a_paused_task_leaves_and_goes_on_without_spending_a_retry():
    paused = Orders(paused=frozenset({"a"}))
    world = Asked([task("a", seconds=50), task("b", seconds=300)], {10: paused, 100: Orders()})
    summary = world.run()
    assert (summary.ok, summary.retries) == (True, 0)
    assert world.path("a") == [State.READY, State.RUNNING, State.PAUSED, State.READY, State.RUNNING, State.DONE]
    assert world.events[-1].task.id == "b"
    assert [event.seconds for event in world.events if event.task.id == "a"][2:4] == pytest.approx([10, 100], abs=3)


def test_everything_paused_waits_and_nothing_starts():
    all_paused = Orders(paused=frozenset({"a", "b"}))
    world = Asked([task("a"), task("b", "a")], {0: all_paused, 5000: Orders()})
    looks = []
    poll = world.executor.poll
    world.executor.poll = lambda seconds: looks.append(seconds) or poll(seconds)
    assert world.run().ok
    assert world.start_of("a") == pytest.approx(5000, abs=3)
    assert len(looks) <= 5000 / Policy().watch_seconds + 10


def test_a_task_that_does_not_leave_is_killed_and_still_only_paused():
    class Stubborn(SimulatedExecutor):
        def leave(self, task_id: str, attempt: int) -> None:
            pass

    world = Asked([task("a", seconds=1000)], {10: Orders(paused=frozenset({"a"})), 300: Orders()})
    world.executor.__class__ = Stubborn
    summary = world.run()
    assert (summary.ok, summary.retries) == (True, 0)
    assert [event.seconds for event in world.events if event.state is State.PAUSED] == pytest.approx([130], abs=5)


def test_a_task_that_fails_while_asked_to_leave_spends_its_retry():
    world = Asked(
        [task("a", seconds=50)],
        {10: Orders(paused=frozenset({"a"})), 100: Orders()},
        fate=failing(FailureKind.CRASHED, times=1),
    )
    world.executor.leave = lambda id, attempt: None
    assert world.run().retries == 1


def test_what_is_cancelled_blocks_what_needs_it():
    tasks = [task("trunk", seconds=50), task("branch", "trunk"), task("free", seconds=100)]
    world = Asked(tasks, {10: Orders(cancelled=frozenset({"trunk"}))})
    summary = world.run()
    assert summary.cancelled == ("trunk",)
    assert (summary.ok, summary.blocked) == (True, {"branch": "trunk"})
    assert set(summary.done) == {"free"}
    assert world.executor._live == set()


@pytest.mark.parametrize("cancelled", [{"trunk"}, {"trunk", "branch"}])
def test_what_is_resumed_before_all_has_ended_goes_on_with_what_needs_it(cancelled: set[str]):
    tasks = [task("trunk", seconds=50), task("branch", "trunk"), task("free", seconds=100)]
    world = Asked(tasks, {10: Orders(cancelled=frozenset(cancelled)), 60: Orders()})
    summary = world.run()
    assert set(summary.done) == {"trunk", "branch", "free"}
    assert (summary.cancelled, summary.blocked) == ((), {})
    assert world.started().count("trunk") == 2


def test_what_is_resumed_just_as_all_ends_goes_on():
    order = [Orders(cancelled=frozenset({"a"}))]
    world = Asked([task("a"), task("b", seconds=100)], {0: order[0]})
    world.supervisor._orders = lambda: order[0]
    world.supervisor._on_event = lambda event: order.insert(0, Orders()) if event.state is State.DONE else None
    assert set(world.run().done) == {"a", "b"}


def test_time_with_nothing_under_way_is_no_running_time():
    orders = {10: Orders(paused=frozenset({"a"})), 500: Orders()}
    summary = Asked([task("a", seconds=50)], orders).run()
    assert summary.wall_seconds > 500
    assert 50 <= summary.running_seconds < 100


def test_cancelling_everything_ends_the_run():
    ids = frozenset({"a", "b", "c"})
    world = Asked([task("a", seconds=500), task("b", "a"), task("c", seconds=500)], {10: Orders(cancelled=ids)})
    summary = world.run()
    assert set(summary.cancelled) == ids
    assert (summary.ok, summary.blocked) == (True, {})
    assert summary.wall_seconds < 20


def test_cancelling_a_ready_task_with_what_needs_it_blocks_nothing():
    tasks = [task("first", seconds=20), task("trunk", seconds=9), task("branch", "trunk"), task("leaf", "branch")]
    order = Orders(cancelled=frozenset({"trunk", "branch", "leaf"}))
    world = Asked(tasks, {5: order}, nodes=(Node(id="n", cpus=1),))
    summary = world.run()
    assert set(summary.cancelled) == order.cancelled
    assert (summary.ok, summary.blocked) == (True, {})


def test_orders_and_hangs_are_looked_at_however_fast_attempts_end_without_fault():
    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        if task.id == "held":
            return 0.5, Failed(kind=FailureKind.HELD, message="by another")
        return math.inf, Succeeded(value=None)

    world = Asked(
        [task("held"), task("hung"), task("unwanted")],
        {10: Orders(cancelled=frozenset({"unwanted"})), 60: Orders(cancelled=frozenset({"held", "hung", "unwanted"}))},
        nodes=(Node(id="n", cpus=3),),
        fate=fate,
        stalled=lambda task: task.id == "hung" and 20 < world.clock.now() < 23,
        policy=Policy(preemptions=1000, longest_delay_seconds=0.5),
    )
    summary = world.run()
    assert set(summary.cancelled) == {"held", "hung", "unwanted"}
    ends = {event.task.id: event.seconds for event in world.events if event.state is State.CANCELLED}
    assert ends["unwanted"] == pytest.approx(10, abs=3)
    assert [event.reason for event in world.events if event.state is State.RETRYING and event.task.id == "hung"]


def test_what_was_cancelled_before_needs_no_node():
    world = Asked([task("a", resources=Resources(gpus=64))], {0: Orders(cancelled=frozenset({"a"}))})
    assert world.run().cancelled == ("a",)


# -- failures -------------------------------------------------------------------------------------------------------------


def test_a_task_that_fails_blocks_what_hangs_on_it_and_nothing_else():
    tasks = [task("trunk"), task("branch", "trunk"), task("report", "branch", "other"), task("other"), task("free")]
    summary = World(tasks, fate=failing(FailureKind.NON_FINITE, only="trunk")).run()
    assert set(summary.done) == {"other", "free"}
    assert summary.failed["trunk"].kind is FailureKind.NON_FINITE
    assert summary.blocked == {"branch": "trunk", "report": "trunk"}
    assert not summary.ok


# -- budgets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [
        (FailureKind.USER_ERROR, 1),
        (FailureKind.NON_FINITE, 1),
        (FailureKind.FENCED, 21),
        (FailureKind.CRASHED, 3),
        (FailureKind.WORKER_DIED, 3),
        (FailureKind.OUT_OF_MEMORY, 3),
        (FailureKind.NODE_LOST, 21),
        (FailureKind.PREEMPTED, 21),
    ],
)
def test_attempts_by_kind_of_failure(kind: FailureKind, attempts: int):
    world = World([task("a")], fate=failing(kind))
    summary = world.run()
    assert world.started() == ["a"] * attempts
    assert summary.failed["a"].kind is kind
    assert summary.retries == attempts - 1


def test_preemptions_do_not_eat_the_budget_of_failures():
    kinds = [FailureKind.CRASHED, *[FailureKind.PREEMPTED] * 5, FailureKind.CRASHED]

    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        if attempt <= len(kinds):
            return 1.0, Failed(kind=kinds[attempt - 1], message="as told")
        return 1.0, Succeeded(value=attempt)

    assert World([task("a")], fate=fate).run().done == {"a": 8}


def test_an_attempt_that_got_further_has_the_budgets_anew():
    checkpoints = [1, 1, 2, 2, 3, 3, 3, 3]  # after each attempt

    def progress(task: Task) -> float:
        began = world.started().count("a")
        return float(checkpoints[began - 1]) if began else 0.0

    world = World([task("a")], fate=failing(FailureKind.WORKER_DIED), progress=progress)
    summary = world.run()
    assert (len(world.started()), summary.retries) == (7, 6)
    gaps = [
        later.seconds - earlier.seconds - 1.0
        for earlier, later in pairwise([event for event in world.events if event.state is State.RUNNING])
    ]
    assert gaps == pytest.approx([0, 1, 0, 1, 0, 1])


def test_what_a_task_has_before_its_first_attempt_is_no_progress():
    world = World([task("a")], fate=failing(FailureKind.WORKER_DIED), progress=lambda task: 7.0)
    world.run()
    assert len(world.started()) == 3


def test_the_first_retry_is_immediate_and_later_ones_wait_longer_up_to_a_limit():
    world = World([task("a")], fate=failing(FailureKind.PREEMPTED), policy=Policy(longest_delay_seconds=4))
    world.run()
    starts = [event.seconds for event in world.events if event.state is State.RUNNING]
    gaps = [later - earlier - 1.0 for earlier, later in pairwise(starts)]
    assert gaps[:6] == pytest.approx([0, 1, 2, 4, 4, 4])


def test_another_task_uses_the_node_while_one_waits_for_its_retry():
    world = World(
        [task("bad", seconds=9), task("good", seconds=1)],
        nodes=(Node(id="n", cpus=1),),
        fate=failing(FailureKind.CRASHED, times=2, only="bad"),
    )
    assert world.run().ok
    assert world.started() == ["bad", "bad", "good", "bad"]


# -- order and room -----------------------------------------------------------------------------------------------------


def test_the_longest_path_goes_first():
    tasks = [task("short", seconds=3), task("head", seconds=1), task("tail", "head", seconds=9), task("mid", seconds=5)]
    world = World(tasks, nodes=(Node(id="n", cpus=1),))
    world.run()
    assert world.started() == ["head", "tail", "mid", "short"]


def test_cores_are_never_idle_while_work_is_ready():
    tasks = [task(f"t{i}", seconds=1 + i % 3) for i in range(30)]
    summary = World(tasks).run()
    assert summary.wall_seconds == pytest.approx(sum(task.estimated_seconds for task in tasks) / 2)


def test_a_task_that_needs_an_idle_node_is_not_starved_and_stays_alone():
    timing = task("timing", seconds=500, resources=Resources(cpus=1, whole_node=True))
    world = World([task("first", seconds=600), timing, *[task(f"small{i}", seconds=10 + i % 4) for i in range(80)]])
    world.run()
    assert world.start_of("timing") == 600  # as soon as `first` is done, though small ones are ready all the time
    starts = [event.seconds for event in world.events if event.state is State.RUNNING]
    assert sum(start < 600 for start in starts) > 40
    assert not any(600 < start < 1100 for start in starts)


def test_small_tasks_pass_a_blocked_large_one_only_if_they_are_out_of_its_way():
    tasks = [
        task("long", seconds=100),
        task("whole", seconds=90, resources=Resources(cpus=2)),
        task("fits", seconds=50),
        task("late", seconds=60),
    ]
    world = World(tasks)
    world.run()
    assert world.start_of("whole") == 100
    # `late` is the longer of the two and goes before `fits`; then 50 seconds no longer fit before 100.
    assert world.start_of("late") == 0
    assert world.start_of("fits") == 190


def test_tasks_go_to_other_nodes_past_a_reserved_one():
    nodes = (Node(id="big", cpus=2), Node(id="small", cpus=1))
    tasks = [
        task("holder", seconds=100, resources=Resources(cpus=1.5)),
        task("large", seconds=90, resources=Resources(cpus=2)),
        *[task(f"one{i}", seconds=80 - i) for i in range(3)],
    ]
    world = World(tasks, nodes=nodes)
    world.run()
    assert world.start_of("large") == 100
    assert world.start_of("one0") == 0


def test_more_than_any_node_has_is_refused_at_once():
    world = World([task("ok"), task("gang", resources=Resources(gpus=4))], nodes=(Node(id="n", cpus=8, gpus=2),))
    with pytest.raises(
        UserError, match=r"task gang asks for 1 CPU and 4 GPU, but the largest node has 8 CPU and 2 GPU"
    ):
        world.run()
    assert world.started() == []


def test_no_node_at_all_is_refused():
    with pytest.raises(UserError, match="no node is alive"):
        World([task("a")], nodes=()).run()


def test_what_exists_needs_no_node():
    assert World([task("a")], nodes=(), is_done=lambda task: True).run().skipped == ("a",)


# -- existing results ---------------------------------------------------------------------------------------------------


def test_existing_results_are_skipped_and_let_their_dependents_go():
    done = {"trunk"}
    world = World([task("trunk"), task("branch", "trunk")], is_done=lambda task: task.id in done)
    summary = world.run()
    assert world.started() == ["branch"]
    assert summary.skipped == ("trunk",)


def test_a_result_that_appears_meanwhile_is_not_made_twice():
    appeared: set[str] = set()
    world = World(
        [task("a", seconds=9), task("b", seconds=5), task("c", "b")],
        nodes=(Node(id="n", cpus=1),),
        is_done=lambda task: task.id in appeared,
    )
    world.supervisor._on_event = lambda event: (world.events.append(event), appeared.add("b"))
    summary = world.run()
    assert world.started() == ["a", "c"]
    assert summary.skipped == ("b",)


# -- hangs, lost nodes, interruptions -----------------------------------------------------------------------------------


def hanging(times: int) -> Fate:
    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        return (float("inf") if attempt <= times else 1.0), Succeeded(value=attempt)

    return fate


def test_a_hang_is_cancelled_and_retried_on_the_budget_of_failures():
    world = World([task("a")], fate=hanging(2), stalled=lambda task: world.clock.now() % 100 > 60)
    assert world.run().done == {"a": 3}
    reasons = [event.reason for event in world.events if event.state is State.RETRYING]
    assert all(reason is not None and reason.startswith("hang: no sign of life") for reason in reasons)
    hopeless = World([task("a")], fate=hanging(9), stalled=lambda task: True)
    assert hopeless.run().failed["a"].kind is FailureKind.HANG
    assert hopeless.started() == ["a"] * 3


class DeafExecutor(SimulatedExecutor):
    """Cancelling does nothing, as on a host that can't be reached."""

    def cancel(self, task_id: str, attempt: int) -> None:
        pass


def test_a_cancelled_attempt_that_does_not_end_is_given_up():
    world = World([task("a")])
    world.executor.__class__ = DeafExecutor
    world.executor._fate = lambda task, attempt: ((500.0 if attempt == 1 else 1.0), Succeeded(value=attempt))
    world.supervisor._stalled = lambda task: world.clock.now() < 20
    assert world.run().done == {"a": 2}
    assert world.clock.now() < 100


def test_the_late_end_of_a_given_up_attempt_changes_nothing():
    clock = SimulatedClock()
    executor = SimulatedExecutor(TWO_CORES, clock)
    supervisor = Supervisor([task("a")], executor, clock=clock)
    late = Finished(task_id="a", attempt=1, outcome=Succeeded(value="late"))
    supervisor._end_attempt(late)
    assert supervisor.states["a"] is State.WAITING
    assert supervisor.run().done == {"a": None}


def test_tasks_of_a_node_that_left_run_again_elsewhere():
    nodes = (Node(id="a", cpus=1), Node(id="b", cpus=1))
    world = World([task("x", seconds=50), task("y", seconds=50)], nodes=nodes)

    def lose(event: Event) -> None:
        world.events.append(event)
        if event.state is State.RUNNING and event.task.id == "y" and event.attempt == 1:
            world.executor.nodes = [node for node in world.executor.nodes if node.id not in event.node_ids]

    world.supervisor._on_event = lose
    summary = world.run()
    assert summary.ok
    assert Counter(world.started()) == {"x": 1, "y": 2}
    assert [event.reason for event in world.events if event.state is State.RETRYING] == [
        "node_lost: node b left the cluster"
    ]
    assert summary.wall_seconds == pytest.approx(100)


def test_a_node_that_joins_is_used():
    world = World([task(f"t{i}", seconds=10) for i in range(10)], nodes=(Node(id="a", cpus=1),))

    def join(event: Event) -> None:
        world.executor.nodes = [Node(id="a", cpus=1), Node(id="b", cpus=1)]

    world.supervisor._on_event = join
    assert world.run().wall_seconds < 60


@pytest.mark.parametrize(("lost_node_seconds", "waits"), [(10.0, 10.0), (math.inf, 600.0)])
def test_a_lost_node_is_waited_for_as_long_as_another_may_come(lost_node_seconds: float, waits: float):
    world = World([task("a", seconds=50)])
    world.executor.lost_node_seconds = lost_node_seconds
    lost_seconds: list[float] = []

    def lose(event: Event) -> None:
        if event.state is State.RUNNING:
            world.executor.nodes = []
        if event.state is State.RETRYING:
            lost_seconds.append(world.clock.now())

    world.supervisor._on_event = lose
    summary = world.run()
    assert f"no live node could hold it for {waits:g} seconds" in summary.failed["a"].message
    assert summary.wall_seconds - lost_seconds[0] == pytest.approx(waits, abs=2 * Policy().watch_seconds)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interruption_cancels_what_runs_and_a_second_run_goes_on(error: type[BaseException]):
    tasks = [task("a", seconds=5), task("b", seconds=50), task("c", "a")]
    done: set[str] = set()
    world = World(tasks)

    def interrupt(event: Event) -> None:
        if event.state is State.DONE:
            done.add(event.task.id)
            raise error

    world.supervisor._on_event = interrupt
    with pytest.raises(error):
        world.run()
    assert world.executor._live == set()
    assert world.clock.now() <= 10
    again = World(tasks, is_done=lambda task: task.id in done)
    summary = again.run()
    assert (summary.skipped, sorted(summary.done)) == (("a",), ["b", "c"])


@pytest.mark.parametrize(
    ("number", "code", "seconds"),
    [(signal.SIGTERM, 143, Policy().interrupt_seconds), (signal.SIGUSR1, 138, Policy().notice_seconds)],
)
def test_a_signal_gives_what_runs_time_to_leave_and_exits(number: signal.Signals, code: int, seconds: float):
    asked: list[str] = []
    world = World([task("leaves", seconds=500), task("stubborn", seconds=500)])
    leave = world.executor.leave

    def leave_some(id: str, attempt: int) -> None:
        asked.append(id)
        if id == "leaves":
            leave(id, attempt)

    world.executor.leave = leave_some
    before = signal.getsignal(number)
    world.supervisor._on_event = lambda event: len(world.supervisor._running) == 2 and signal.raise_signal(number)
    with pytest.raises(SystemExit) as left:
        world.run()
    assert left.value.code == code
    assert (sorted(asked), world.executor._live) == (["leaves", "stubborn"], set())
    assert world.clock.now() == pytest.approx(seconds, abs=1)
    assert signal.getsignal(number) is before


def test_the_late_end_of_a_given_up_attempt_does_not_let_the_running_one_go_unkilled():
    world = World([task("a", seconds=500)], fate=failing(FailureKind.PREEMPTED, times=1))
    killed: list[tuple[str, int]] = []
    world.executor.leave = lambda id, attempt: None
    world.executor.cancel = lambda id, attempt: killed.append((id, attempt))

    def interrupt(event: Event) -> None:
        if event.state is State.RUNNING and event.attempt == 2:
            world.executor.poll = late_end
            raise KeyboardInterrupt

    def late_end(seconds: float) -> list[Finished]:
        world.clock.advance_to(world.clock.now() + seconds)
        return [Finished(task_id="a", attempt=1, outcome=Failed(kind=FailureKind.NODE_LOST, message="late"))]

    world.supervisor._on_event = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert killed == [("a", 2)]


def test_the_exit_code_is_the_signals_where_ray_puts_another_in_its_place():
    def poll(seconds: float) -> list[Finished]:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except SystemExit:
            raise SystemExit(1) from None  # as `ray.wait` does
        return []

    world = World([task("a", seconds=50)])
    world.executor.leave = lambda id, attempt: setattr(
        world.executor, "poll", SimulatedExecutor.poll.__get__(world.executor)
    )
    world.executor.poll = poll
    with pytest.raises(SystemExit) as left:
        world.run()
    assert left.value.code == 138


def test_a_gang_that_loses_a_node_starts_again_whole_once_the_rest_is_gone():
    nodes = tuple(Node(id=id, cpus=4, gpus=2) for id in "abc")
    gang = task("gang", seconds=100, resources=Resources(cpus=2, gpus=2, members=2))
    world = World([gang], nodes=nodes)

    def lose(event: Event) -> None:
        world.events.append(event)
        if event.state is State.RUNNING and event.attempt == 1:
            world.executor.nodes = [node for node in nodes if node.id != event.node_ids[1]]

    world.supervisor._on_event = lose
    summary = world.run()
    assert list(summary.done) == ["gang"]
    first, second = (event.node_ids for event in world.events if event.state is State.RUNNING)
    assert set(second) == set("abc") - {first[1]}
    (reason,) = [event.reason for event in world.events if event.state is State.RETRYING]
    assert reason == f"node_lost: node {first[1]} left the cluster"


# -- random DAGs with random fates --------------------------------------------------------------------------------------

HARDWARE = (Node(id="a", cpus=2, gpus=1), Node(id="b", cpus=3, gpus=2), Node(id="c", cpus=1))
sizes = st.sampled_from(
    [
        Resources(),
        Resources(cpus=2),
        Resources(cpus=0.5),
        Resources(gpus=0.5),
        Resources(gpus=1),
        Resources(cpus=3, gpus=2),
        Resources(whole_node=True),
        Resources(cpus=1, members=4),
        Resources(gpus=1, members=3),
        Resources(gpus=0.5, members=2),
    ]
)
fates = st.lists(st.sampled_from([None, "hang", *FailureKind]), max_size=4)


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[Task, list[str | None]]]:
    count = draw(st.integers(1, 25))
    tasks = []
    for index in range(count):
        needs = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        made = task(
            str(index),
            *(str(need) for need in needs),
            seconds=draw(st.sampled_from([0.0, 0.1, 1.0, 7.0, 100.0])),
            resources=draw(sizes),
        )
        tasks.append((made, draw(fates)))
    return tasks


@settings(max_examples=150, deadline=None)
@given(dags(), st.sets(st.integers(0, 24)))
def test_any_dag_with_any_fate_ends_with_each_task_in_one_state(
    dag: list[tuple[Task, list[str | None]]], exist: set[int]
):
    plans = {made.id: plan for made, plan in dag}
    exists = {str(index) for index in exist}
    held: dict[str, tuple[tuple[str, ...], Resources]] = {}
    free = {node.id: node for node in HARDWARE}
    hung: set[str] = set()

    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        plan = plans[task.id]
        what = plan[attempt - 1] if attempt <= len(plan) else None
        hung.discard(task.id)
        if what is None:
            return task.estimated_seconds, Succeeded(value=attempt)
        if what == "hang":
            hung.add(task.id)
            return float("inf"), Succeeded(value=attempt)
        return task.estimated_seconds / 2, Failed(kind=FailureKind(what), message="as told")

    world = World([made for made, _ in dag], HARDWARE, fate, is_done=lambda task: task.id in exists)
    world.supervisor._stalled = lambda task: task.id in hung
    states = world.supervisor.states

    def check(event: Event) -> None:
        world.events.append(event)
        id = event.task.id
        if event.state is State.RUNNING:
            assert id not in exists
            assert all(states[need] in (State.DONE, State.SKIPPED) for need in event.task.needs)
            assert len(event.node_ids) == event.task.resources.members
            held[id] = (event.node_ids, event.task.resources)
            for node in event.node_ids:
                here = [resources for node_ids, resources in held.values() for one in node_ids if one == node]
                assert sum(resources.cpus for resources in here) <= free[node].cpus
                assert sum(resources.gpus for resources in here) <= free[node].gpus
                assert len(here) == 1 or not any(resources.whole_node for resources in here)
        elif event.state in (State.DONE, State.RETRYING, State.FAILED):
            held.pop(id, None)
        if event.state is State.DONE:
            exists.add(id)

    world.supervisor._on_event = check
    summary = world.run()
    ended = [*summary.done, *summary.skipped, *summary.failed, *summary.blocked]
    assert sorted(ended) == sorted(plans)
    assert held == {}
    for id in summary.blocked:
        needs = next(made.needs for made, _ in dag if made.id == id)
        assert any(need in summary.failed or need in summary.blocked for need in needs)
    for id in [*summary.done, *summary.failed]:
        needs = next(made.needs for made, _ in dag if made.id == id)
        assert all(need in summary.done or need in summary.skipped for need in needs)
