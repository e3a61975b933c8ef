"""Joining a standing Ray cluster, and being told at once why that can't be done."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.session import open_session
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from llama.errors import UserError
from tests.cluster import jobs
from tests.cluster.processes import is_alive, wait_for
from tests.cluster.ray_nodes import end, free_port, start_node


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head", "expected `auto` or `host:port`"),
        ("ray://head:10001", "expected `auto` or `host:port`"),
        ("127.0.0.1:{free}", "nothing answers there"),
        ("10.255.255.1:6379", "no token is set for a cluster beyond this machine"),
    ],
)
def test_a_wrong_address_is_one_message_within_seconds(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    with pytest.raises(UserError, match=message), open_session(address=address.format(free=free_port())):
        pass
    assert time.monotonic() - started < 10


def test_a_listener_that_is_no_ray_is_one_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.probe._ANSWER_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="doesn't answer as a Ray"), open_session(address=address):
            pass


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head and a second node, each on a loopback address of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        address = f"127.0.0.2:{free_port()}"
        nodes = [
            start_node(
                Path(folder),
                "--head",
                "--node-ip-address=127.0.0.2",
                f"--port={address.split(':')[1]}",
                "--include-dashboard=false",
                "--dashboard-agent-listen-port=0",
            )
        ]
        try:
            wait_for(lambda: "Ray runtime started" in (Path(folder) / "start.log").read_text(), seconds=60)
            nodes.append(start_node(Path(folder), f"--address={address}", "--node-ip-address=127.0.0.3"))
            yield address
        finally:
            left = [pid for node in reversed(nodes) for pid in end(node)]
            wait_for(lambda: not any(is_alive(pid) for pid in left), seconds=10)


@pytest.mark.slow
def test_tasks_land_on_every_node_of_a_standing_cluster(two_nodes: str, tmp_path: Path):
    with open_session(address=two_nodes) as executor:
        wait_for(lambda: len(executor.capacity()) == 2, seconds=60)
        nodes = {node.id: node.name for node in executor.capacity()}
        assert sorted(nodes.values()) == ["127.0.0.2", "127.0.0.3"]
        tasks = [
            Task(
                id=id,
                function=jobs.note_and_wait,
                arguments={"folder": str(tmp_path), "name": id, "until": other},
                resources=Resources(whole_node=id == "b"),
            )
            for id, other in [("a", "b"), ("b", "a")]  # each waits for the other: both run at once
        ]
        summary = Supervisor(tasks, executor).run()
        assert sorted(nodes[node_id] for node_id in summary.done.values()) == ["127.0.0.2", "127.0.0.3"]
