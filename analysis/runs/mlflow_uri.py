"""MLflow's tracking URIs: whether one is a database, which file a SQLite one names, and how to print one. No MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def is_database(tracking_uri: str) -> bool:
    return tracking_uri.split(":", 1)[0].split("+", 1)[0] in _DATABASES


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file behind a SQLite URI; None for any other."""
    if not is_database(tracking_uri) or not tracking_uri.startswith("sqlite"):
        return None
    return Path(unquote(tracking_uri.split(":///", 1)[-1].split("?", 1)[0]))


def masked(text: str) -> str:
    """`text` with the credentials of any URL in it hidden: before an @, or as a query's password."""
    text = re.sub(r"(?<=://)[^\s'\"]+@", "***@", text)
    return re.sub(r"(?i)(password|token|secret)=[^&\s'\"]+", r"\1=***", text)
