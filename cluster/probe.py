"""Ask who answers at a Ray address, in a process of its own: Ray's client retries a silent one for minutes.

Run as `python -m cluster.probe HOST:PORT`; prints one JSON document.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from llama.errors import UserError

_TCP_SECONDS = 3.0
_ANSWER_SECONDS = 20.0
#: A head answers a second or two before its own node is on the list.
_REGISTER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A standing cluster as seen from here."""

    ray_version: str
    python_version: str
    has_node_here: bool
    """A driver needs a node of the cluster on its own machine."""


def answers(host: str, port: int) -> bool:
    """Whether anything takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=_TCP_SECONDS):
            return True
    except OSError:
        return False


def probe(address: str) -> Standing:
    """Who answers at `address`, under the `RAY_AUTH_*` settings of this process's environment.

    Raises:
        UserError: no Ray answers there, or it wants another token.
    """
    command = [sys.executable, "-P", "-m", "cluster.probe", address]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--address {address}: something listens there but doesn't answer as a Ray {_our_ray()} head does;"
            " expected the address that `ray start --head` printed"
        ) from None
    if process.returncode == 0:
        return Standing(**json.loads(process.stdout.splitlines()[-1]))
    said = process.stderr.strip().splitlines()[-1:] or ["no reason given"]
    if "authentication" in said[0].lower() or "token" in said[0].lower():
        raise UserError(
            f"--address {address}: the cluster refuses our token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or"
            " RAY_AUTH_TOKEN_PATH to the one that its head was started with"
        )
    raise UserError(f"--address {address}: no Ray cluster that we can join: {said[0]}")


def _our_ray() -> str:
    from importlib.metadata import version

    return version("ray")


def _main(address: str) -> None:
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.services import find_node_ids
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=address)
    metadata = get_cluster_metadata(client)
    until = time.monotonic() + _REGISTER_SECONDS
    while True:
        nodes = {node_id.hex() for node_id in client.get_all_node_info(timeout=5)}
        has_node_here = bool(nodes & set(find_node_ids()))
        if has_node_here or time.monotonic() > until:
            break
        time.sleep(0.2)
    answer = {
        "ray_version": metadata["ray_version"],
        "python_version": metadata["python_version"],
        "has_node_here": has_node_here,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1])
