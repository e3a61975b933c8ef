"""What to run: a sweep's YAML -> runs and segments -> plan, launch, status, tracking; the `isoloss` command.

    from sweeps import load_sweep, plan, launch

In the order in which a sweep passes through them: `designs` (from YAML to runs), `hardware` (where they go, how fast, whether
they fit), `planning` (what they take and could tell), `launching` (they run), `watching` (how they stand), `tracking` (MLflow).
Beside these `tuning` (searches for rates and shapes), `trainer_command` (another program trains) and `commands` (the parts of
`isoloss`, which `command` puts together).

Names are imported on first use, so that `import sweeps` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.designs.spec import load_sweep
    from sweeps.notebooks import launch, plan

_HOMES = {"launch": "sweeps.notebooks", "load_sweep": "sweeps.designs.spec", "plan": "sweeps.notebooks"}

__all__ = ["launch", "load_sweep", "plan"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
