"""The last lines of a launch."""

from sweeps.launching.result import LaunchResult


def result(**changes: object) -> LaunchResult:
    values: dict[str, object] = {
        "sweep": "s",
        "finished": 1,
        "diverged": [],
        "failed": {},
        "cancelled": [],
        "left": [],
        "trained_tokens": 6000,
        "training_seconds": 60.0,
        "tokens_per_second": 100.0,
        "solo_share": 0.9,
        "mirror_trouble": None,
    }
    return LaunchResult.model_validate(values | changes)


def test_runs_that_were_resumed_too_late_are_named() -> None:
    assert result().summary == "s: 1 run finished"
    late = result(finished=2, left=["w16-C8e9-s0"]).summary
    assert late.splitlines() == [
        "s: 2 runs finished",
        "not run, resumed after the training: w16-C8e9-s0 (launch again to run them)",
    ]


def test_throughput_is_of_the_time_that_something_was_at_work() -> None:
    said = result().throughput
    assert said.startswith("trained 6,000 tokens in 1 min 0 s: 100 tokens a second")
    assert "90% of what" in said
