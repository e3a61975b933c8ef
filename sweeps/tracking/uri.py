"""Which MLflow a sweep is mirrored to, and whether it can work at all. Imports no MLflow: this runs before a launch."""

from __future__ import annotations

import base64
import os
import ssl
import urllib.error
import urllib.request
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from analysis.runs.mlflow_uri import is_database, masked, sqlite_path
from llama.errors import UserError

CHECK_SECONDS = 3.0
OFF = "off"
"""In the place of a tracking URI: no MLflow at all, as on a cluster without one. `sync` makes up for it elsewhere."""


def default_tracking_uri(storage: Path, chosen: str | None = None) -> str:
    """The tracking URI in force: `chosen` (--tracking-uri), else MLFLOW_TRACKING_URI, else a SQLite file in the storage."""
    return chosen or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(storage / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """URI of a SQLite file. MLflow unquotes it, so that a `#` or a `%` in a folder's name needs quoting."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def is_server(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


def require_tracking(tracking_uri: str) -> None:
    """Raise UserError where there can be no MLflow: the URI can't work, or says that there is none."""
    if tracking_uri == OFF:
        raise UserError("tracking is off: name an MLflow store or server with --tracking-uri, as sqlite:///mlflow.db")
    check_tracking(tracking_uri)


def check_tracking(tracking_uri: str) -> str | None:
    """A verdict in at most a few seconds: None when all looks well, else one warning. Training goes on in either case.

    Raises:
        UserError: the URI can never work, whatever happens later.
    """
    if tracking_uri == OFF:
        return None
    _refuse_impossible(tracking_uri)
    if is_server(tracking_uri):
        return _check_server(tracking_uri)
    path = sqlite_path(tracking_uri)
    if path is not None:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        target = path if path.exists() else folder
        if not os.access(target, os.W_OK):
            return f"MLflow's store {path} can't be written ({target} is read-only); runs go on without it"
    return None


def _refuse_impossible(tracking_uri: str) -> None:
    where = f"the MLflow tracking URI {masked(tracking_uri)!r}"
    hint = "use sqlite:////absolute/path/mlflow.db, or http://host:port of an MLflow server"
    scheme = tracking_uri.split(":", 1)[0] if ":" in tracking_uri else ""
    if scheme in ("", "file"):
        raise UserError(f"{where} is a folder, and MLflow has refused folders since 3.13: {hint}")
    if is_server(tracking_uri):
        try:
            host, _ = urlsplit(tracking_uri).hostname, urlsplit(tracking_uri).port
        except ValueError as error:
            raise UserError(f"{where} is malformed ({error}): {hint}") from None
        if not host:
            raise UserError(f"{where} names no host: {hint}")
    elif scheme.split("+", 1)[0] == "sqlite":
        if ":///" not in tracking_uri or tracking_uri.endswith((":///", ":memory:")):
            raise UserError(f"{where} names no file: {hint}")
    elif not is_database(tracking_uri) and scheme != "databricks":
        plugins = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
        if scheme not in plugins:
            raise UserError(f"{where} has an unknown scheme {scheme!r}: {hint}")


def _check_server(tracking_uri: str) -> str | None:
    """Ask the server for one experiment, with the credentials that MLflow's own client would send."""
    shown = masked(tracking_uri)
    later = "training goes on, and `isoloss sync` fills MLflow later"
    parts = urlsplit(tracking_uri)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]))
    request = urllib.request.Request(f"{bare.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    user = (parts.username and unquote(parts.username)) or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = (parts.password and unquote(parts.password)) or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=CHECK_SECONDS, context=context):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return (
                f"MLflow at {shown} answers {error.code}: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the "
                f"server's --allowed-hosts; {later}"
            )
        return f"MLflow at {shown} answers {error.code}: is it an MLflow server? {later}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"MLflow at {shown} is not reached ({reason}); {later}"
