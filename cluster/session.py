"""A Ray for one sweep: started here and ended with the `with` statement, or a standing cluster that is joined.

with open_session() as executor:                      # this machine, on loopback, gone when we are
    summary = Supervisor(tasks, executor).run()

with open_session(address="head:6379") as executor:   # or "auto": the one that runs on this machine
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cluster import local_ray
from cluster.executor import OWN_NODE_SECONDS
from cluster.machine import available_cpus, visible_gpus
from cluster.probe import answers, probe
from cluster.signals import signals_held
from cluster.worker import THREAD_VARIABLES
from llama.errors import UserError

if TYPE_CHECKING:
    from cluster.ray_executor import RayExecutor

#: For every process of a cluster, the driver's included: a silent host is noticed after 15 s and its tasks come back after
#: 30 s, instead of 64 s and 421 s. Who runs `ray start` by hand sets them there too.
KEEPALIVE_SETTINGS = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}

#: Calls and outcomes are small; Ray wants 75 MB at least.
_OBJECT_STORE_BYTES = 100_000_000
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


@contextmanager
def open_session(
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    preload: Sequence[str] = (),
) -> Iterator[RayExecutor]:
    """Connect this process to Ray: to one of its own, or to the standing cluster at `address` (`auto` or `host:port`).

    A Ray of our own takes `cpus` cores and `gpus` GPUs, by default all that this process may use, and its workers import
    the modules in `preload` as they start, while the driver does other things. Open one session at a time.

    Raises:
        UserError: no cluster answers at `address`, it can't be joined from here, or Ray doesn't start on this machine.
    """
    if address is not None:
        with _joined(address) as executor:
            yield executor
        return
    settings = local_ray.HeadSettings(
        cpus=available_cpus() if cpus is None else cpus,
        gpus=len(visible_gpus()) if gpus is None else gpus,
        object_store_bytes=_OBJECT_STORE_BYTES,
    )
    variables = {
        "RAY_AUTH_MODE": "token",  # other users of this machine reach loopback too
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_preload_python_modules": ",".join(preload),
        **dict.fromkeys(THREAD_VARIABLES, "1"),  # until a task says otherwise
    }
    with (
        _environment(variables),
        _head(settings) as own_address,
        _connected(own_address, loopback=True, lost_node_seconds=OWN_NODE_SECONDS) as executor,
    ):
        yield executor


@contextmanager
def _joined(address: str) -> Iterator[RayExecutor]:
    host, port = _parse(address)
    with _environment(_authentication(host)):
        where = _reachable(host, port)
        standing = probe(where)
        ours = (version("ray"), platform.python_version())
        if (standing.ray_version, standing.python_version) != ours:
            raise UserError(
                f"--address {address}: the cluster runs Ray {standing.ray_version} on Python {standing.python_version},"
                f" we run Ray {ours[0]} on Python {ours[1]}: they must be the same"
            )
        if not standing.has_node_here:
            raise UserError(
                f"--address {address}: no node of that cluster runs on this machine: run `ray start --address={where}`"
                " here first, or launch on its head"
            )
        with _connected(where, loopback=_is_loopback(where.rsplit(":", 1)[0])) as executor:
            yield executor


def _parse(address: str) -> tuple[str, int]:
    """Host and port; `auto` is RAY_ADDRESS or the one Ray that runs on this machine."""
    found = _address_here() if address == "auto" else address
    host, _, port = found.rpartition(":")
    if not host or not port.isdigit() or "://" in found:
        raise UserError(f"--address {found}: expected `auto` or `host:port`, such as 10.0.0.1:6379")
    return host, int(port)


def _address_here() -> str:
    from ray._private.services import find_gcs_addresses

    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    addresses = sorted(find_gcs_addresses())
    if len(addresses) == 1:
        return str(addresses[0])
    if not addresses:
        raise UserError(
            "--address auto: no Ray runs on this machine: start one by `ray start --head`, name its host:port,"
            " or leave --address out to use this machine alone"
        )
    raise UserError(f"--address auto: several Rays run on this machine, name one of {', '.join(addresses)}")


def _reachable(host: str, port: int) -> str:
    """The address to use: a head told to use loopback may listen on the machine's outward address, as Ray does."""
    from ray.util import get_node_ip_address

    hosts = [host, get_node_ip_address()] if _is_loopback(host) else [host]
    for candidate in hosts:
        if answers(candidate, port):
            return f"{candidate}:{port}"
    raise UserError(
        f"--address {host}:{port}: nothing answers there: check the address, that the head runs, and the firewall"
    )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _authentication(host: str) -> dict[str, str]:
    """`RAY_AUTH_MODE`, always set: unset, Ray changes its mind when a token file happens to exist."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if has_token or (Path.home() / ".ray/auth_token").exists():
        return {"RAY_AUTH_MODE": "token"}
    if _is_loopback(host):
        return {"RAY_AUTH_MODE": "disabled"}
    raise UserError(
        f"--address {host}: no token is set for a cluster beyond this machine: set RAY_AUTH_TOKEN_PATH to the head's token"
        " file, or RAY_AUTH_MODE=disabled if the cluster has none and its network is trusted"
    )


@contextmanager
def _connected(address: str, *, loopback: bool, lost_node_seconds: float = math.inf) -> Iterator[RayExecutor]:
    import ray
    from ray._private import ray_constants
    from ray._private import worker as ray_worker
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    from cluster.ray_executor import RayExecutor

    # Ray read its settings and token when it was first imported, which may have been before ours were set.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    outward, prints = ray_constants.ENABLE_RAY_CLUSTER, ray_worker.print_to_stdstream
    # Ray prints of every killed worker and lost node into our standard output, where results go; outcomes tell us as much.
    ray_worker.print_to_stdstream = lambda *_, **__: None
    ray_constants.ENABLE_RAY_CLUSTER = outward and not loopback  # or Ray swaps loopback for the outward address
    try:
        with signals_held():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        executor = RayExecutor(lost_node_seconds=lost_node_seconds)
        try:
            yield executor
        finally:
            executor.close()
            ray.shutdown()
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, ray_worker.print_to_stdstream = outward, prints


@contextmanager
def _head(settings: local_ray.HeadSettings) -> Iterator[str]:
    """A head in a process of its own, which ends all of Ray when our end of its standard input closes."""
    with tempfile.TemporaryFile() as complaints:
        keeper = subprocess.Popen(
            local_ray.command(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C is for the driver
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            import ray  # loading Ray takes as long here as there, so both do it at once

            del ray
            yield _said_address(keeper.stdout, complaints)
        finally:
            keeper.stdin.close()
            try:
                keeper.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            keeper.stdout.close()


def _said_address(stdout: IO[bytes], complaints: IO[bytes]) -> str:
    ready, _, _ = select.select([stdout], [], [], _START_SECONDS)
    line = stdout.readline() if ready else b""
    if line:
        return str(json.loads(line)["address"])
    complaints.seek(0)
    said = complaints.read().decode(errors="replace").strip().splitlines()
    reason = said[-1] if said else f"it gave no sign of life for {_START_SECONDS:g} seconds"
    raise UserError(f"Ray doesn't start on this machine: {reason}")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set our settings and these while Ray is up. Ray reads some as it loads, and passes all on to what it starts."""
    wanted = {**KEEPALIVE_SETTINGS, "RAY_USAGE_STATS_ENABLED": "0", **variables}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
