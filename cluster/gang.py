"""A gang's attempt as its executor sees it: who has reported in, who has ended, and what that means for the others.

No member starts its call before all have reported in, so none waits in a collective for one that never came. From then on they
stand and fall together: when one fails, the others are killed, and the attempt has failed as a whole.
"""

from __future__ import annotations

import socket

from cluster.task import Failed, FailureKind, Outcome, Succeeded

#: Every member must have reported in by then, or all are let go. Long enough for a process to start and load torch.
GATHER_SECONDS = 120.0
#: When a member dies, the others' collectives fail too, and may tell of it first. Wait so long for the member that knows more.
SETTLE_SECONDS = 1.0

#: Of several members' failures, which tells most of the cause: a member that only raised may have raised because another died.
_TELLING = (
    FailureKind.USER_ERROR,
    FailureKind.NON_FINITE,
    FailureKind.FENCED,
    FailureKind.OUT_OF_MEMORY,
    FailureKind.NODE_LOST,
    FailureKind.PREEMPTED,
    FailureKind.WORKER_DIED,
)


class Gang:
    """Fed with what members do, it says when to let them go on, when to kill the rest, and how the attempt ended."""

    def __init__(self, world_size: int, *, host: str, now: float, gather_seconds: float = GATHER_SECONDS) -> None:
        """`host` is where rank 0 runs, as the others reach it; `now` and every later time are of one monotonic clock. A lone
        process is a gang of one that needn't gather.
        """
        self.world_size, self._host = world_size, host
        self._ports: dict[int, int] = {}
        self._ended: dict[int, Outcome] = {}
        self._failures: dict[int, Failed] = {}
        self._gather_by = now + gather_seconds if world_size > 1 else float("inf")
        self._gather_seconds = gather_seconds
        self._kill_at = float("inf")
        self.killed = False

    @property
    def rendezvous(self) -> str | None:
        """`host:port` of rank 0, once all have reported in."""
        return f"{self._host}:{self._ports[0]}" if len(self._ports) == self.world_size else None

    def has_reported(self, rank: int) -> bool:
        return rank in self._ports

    def report(self, rank: int, port: int) -> None:
        """The member runs, and found this port free."""
        self._ports[rank] = port

    def end(self, rank: int, outcome: Outcome, now: float) -> None:
        """The member's process or call has ended."""
        self._ended[rank] = outcome
        if isinstance(outcome, Failed) and not self.killed:
            self._failures[rank] = outcome
            patience = SETTLE_SECONDS if outcome.kind not in _TELLING else 0.0
            self._kill_at = min(self._kill_at, now + patience)

    def deadline(self) -> float:
        """When `must_be_killed` may next become true by the mere passing of time."""
        return min(self._kill_at, self._gather_by if self.rendezvous is None else float("inf"))

    def must_be_killed(self, now: float) -> bool:
        """Whether those members that still run are to be killed now. Says so once."""
        if self.killed or now < self.deadline():
            return False
        if not self._failures:
            here = sorted(self._ports)
            message = (
                f"{len(here)} of {self.world_size} members reported in within {self._gather_seconds:g} seconds"
                f" (ranks {', '.join(map(str, here[:8])) or 'none'})"
            )
            self._failures[-1] = Failed(kind=FailureKind.NOT_GATHERED, message=message)
        self.killed = True
        return True

    def outcome(self) -> Outcome | None:
        """Of the attempt, once every member has ended: rank 0's value, or the failure that tells most."""
        if len(self._ended) < self.world_size:
            return None
        seconds = max(outcome.seconds for outcome in self._ended.values())
        if not self._failures:
            first = self._ended[0]
            return Succeeded(value=first.value, seconds=seconds) if isinstance(first, Succeeded) else first
        rank = min(self._failures, key=lambda rank: (_weight(self._failures[rank]), rank))
        failure = self._failures[rank]
        who = f"member {rank} of {self.world_size}: " if rank >= 0 and self.world_size > 1 else ""
        return Failed(
            kind=failure.kind, message=f"{who}{failure.message}", traceback=failure.traceback, seconds=seconds
        )


def _weight(failure: Failed) -> int:
    return _TELLING.index(failure.kind) if failure.kind in _TELLING else len(_TELLING)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
