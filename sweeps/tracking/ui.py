"""MLflow's own web UI on a sweep's store: one process, loopback, job execution off."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from analysis.runs.mlflow_uri import masked, sqlite_path
from llama.errors import UserError
from sweeps.tracking.moved import mend_artifact_places
from sweeps.tracking.names import TAG_MIRROR_ID
from sweeps.tracking.uri import is_server, require_tracking
from sweeps.tracking.view import comparison_path

START_SECONDS = 90.0
END_SECONDS = 10.0


def serve_ui(
    tracking_uri: str, *, host: str = "127.0.0.1", port: int = 5000, say: Callable[[str], None] = print
) -> None:
    """Serve until Ctrl-C or SIGTERM. A tracking server has its UI already: then only say where.

    Raises:
        UserError: there is no store yet or it is damaged, the port is taken, or the host is not this machine's.
    """
    require_tracking(tracking_uri)
    if is_server(tracking_uri):
        say(f"MLflow's server has its own UI: open {masked(tracking_uri)}")
        return
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        raise UserError(f"no MLflow store at {path}: launch a sweep first, or `isoloss sync` one that has run")
    if path is not None:
        with suppress(sqlite3.Error):  # what is wrong with the file, MLflow's server will tell
            mend_artifact_places(path, path.absolute().parent)
    _check_port(host, port)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with _server(tracking_uri, host, port) as process:
        _wait_until_up(process, url)
        say(f"MLflow UI on {masked(tracking_uri)}: open {url} (Ctrl-C ends it)")
        for sweep, place in _comparisons(url):
            say(f"  loss against tokens of sweep {sweep}: {url}{place}")
        try:
            process.wait()
        except KeyboardInterrupt:
            return
        raise ServerFailure(f"MLflow's server at {url} ended by itself")


class ServerFailure(Exception):
    """MLflow's server does not serve; why is in its log."""


def _comparisons(url: str) -> list[tuple[str, str]]:
    """(sweep, path) of the comparison of each mirrored sweep, as the running server tells."""
    query = f"{url}/api/2.0/mlflow/experiments/search?max_results=1000"
    try:
        with urllib.request.urlopen(query, timeout=10) as answer:
            experiments = json.load(answer).get("experiments", [])
    except urllib.error.HTTPError as error:
        raise ServerFailure(f"MLflow's server at {url} can't read its store: {_own_words(error)}") from None
    except OSError as error:
        raise ServerFailure(f"MLflow's server at {url} does not answer ({error})") from None
    return [
        (experiment["name"], comparison_path(experiment["experiment_id"]))
        for experiment in experiments
        if any(tag["key"] == TAG_MIRROR_ID for tag in experiment.get("tags", []))
    ]


def _check_port(host: str, port: int) -> None:
    error = _bind_error(host, port)
    if error is None:
        return
    if isinstance(error, socket.gaierror) or error.errno == 99:
        raise UserError(f"--host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all networks")
    free = next((other for other in range(port + 1, min(port + 100, 65536)) if _bind_error(host, other) is None), None)
    advice = f"try --port {free}" if free is not None else "choose another with --port"
    raise UserError(f"port {port} on {host} can't be used ({(error.strerror or str(error)).lower()}): {advice}")


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: a port just left is free
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


@contextmanager
def _server(tracking_uri: str, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server in a process group of its own, ended whole on the way out; what it printed is told if it fails."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,  # not an argument: `ps` would show a password in it
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    path = sqlite_path(tracking_uri)
    if path is not None:
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = (path.absolute().parent / "mlflow-artifacts").as_uri()
    with tempfile.TemporaryFile() as log, _terminating():
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        except ServerFailure as error:
            log.seek(0)
            why = telling_line(log.read().decode(errors="replace"))
            advice = "see whether the database is reached and whole"
            if path is not None:
                advice = (
                    f"if {path} is damaged, move it away: `isoloss sync SWEEP` makes a new one from the run folders"
                )
            raise UserError(masked(f"{error}{f': {why}' if why else ''}; {advice}")) from None
        finally:
            _end_group(process)


def telling_line(log: str) -> str:
    """The line of a server's log that names what went wrong: the last one with an exception in it, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (named or lines or [""])[-1][:300]


def _own_words(error: urllib.error.HTTPError) -> str:
    """What a REST error says of itself."""
    try:
        return str(json.loads(error.read()).get("message", error.reason)).splitlines()[0][:300]
    except (ValueError, AttributeError, IndexError):
        return str(error.reason)


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that the server never outlives us."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    ended = process.poll() is not None
    raise ServerFailure(f"MLflow's server did not come up at {url}" + ("" if ended else f" in {START_SECONDS:.0f} s"))
