"""Inside a worker: what a call becomes, and of which kind each failure is."""

import os
import pickle

import pytest

from cluster.task import Failed, FailureKind, Succeeded, Task
from cluster.worker import THREAD_VARIABLES, classify, pack_call, run_call, unpack_outcome
from tests.cluster import jobs


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")


def outcome_of(function, **arguments):
    task = Task(id="a", function=function, arguments=arguments)
    return unpack_outcome(run_call(pack_call(task, attempt=2), threads=1))


def test_the_function_gets_its_arguments_and_the_attempt():
    outcome = outcome_of(jobs.kill_own_process, on_attempts=1)
    assert isinstance(outcome, Succeeded)
    assert outcome.value == 2
    assert outcome.seconds >= 0


@pytest.mark.parametrize("how", ["user_error", "non_finite", "fenced", "preempted", "out_of_memory", "crashed"])
def test_what_the_function_raises_keeps_its_kind_and_traceback(how: str):
    outcome = outcome_of(jobs.fail, how=how)
    assert isinstance(outcome, Failed)
    assert outcome.kind == how
    assert "jobs.py" in outcome.traceback


def test_a_user_error_is_its_message_and_a_crash_names_its_type():
    assert outcome_of(jobs.fail, how="user_error").message == "sweep.yaml line 3: lr is -1"
    assert outcome_of(jobs.fail, how="crashed").message == "ZeroDivisionError: division by zero"
    assert outcome_of(jobs.fail, how="exit").kind is FailureKind.CRASHED


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: tried 9"),
    ],
)
def test_want_of_host_memory_is_out_of_memory(error: Exception):
    assert classify(error) is FailureKind.OUT_OF_MEMORY


def test_what_can_not_travel_is_said_before_or_after_the_call():
    outcome = outcome_of(jobs.give_the_unpicklable)
    assert isinstance(outcome, Failed)
    assert "what the task returned can't be pickled" in outcome.message
    with pytest.raises(ValueError, match="task a: its function and arguments must pickle"):
        pack_call(Task(id="a", function=lambda attempt: None), attempt=1)


def test_a_function_that_the_worker_lacks_is_a_failure_with_its_reason():
    missing = pickle.dumps((jobs.give, {})).replace(b"tests.cluster.jobs", b"tests.cluster.jops")
    outcome = unpack_outcome(run_call(missing, threads=1))
    assert isinstance(outcome, Failed)
    assert "No module named 'tests.cluster.jops'" in outcome.message


def test_threads_are_set_before_the_call():
    task = Task(id="a", function=jobs.describe_process)
    outcome = unpack_outcome(run_call(pack_call(task, attempt=1), threads=7))
    assert isinstance(outcome, Succeeded)
    assert outcome.value["threads"] == "7"
    assert {os.environ[name] for name in THREAD_VARIABLES} == {"7"}
