"""`python -m tests.faults`: disturbs real sweeps and prints what it cost, as one JSON document. It ends with an error where an
invariant does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions
from tests.faults import experiments
from tests.faults.experiments import LAUNCHER, NODE, OWN_RAYLET, TRACKING, WORKER

EACH = {victim: f"{victim} in every state" for victim in (LAUNCHER, WORKER, OWN_RAYLET, NODE, TRACKING)}
RANDOM = "at random"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*EACH, RANDOM], choices=[*EACH, RANDOM], metavar="VICTIM")
    parser.add_argument("--kills", type=int, default=30, help="at random moments")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "versions": versions("torch", "ray", "mlflow")}
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = experiments.undisturbed_sweep(Path(folder) / "undisturbed")
        for name in arguments.only:
            print(f"killing: {EACH.get(name, RANDOM)}", file=sys.stderr, flush=True)
            where = Path(folder) / name
            if name == RANDOM:
                figures = experiments.at_random(where, undisturbed, kills=arguments.kills, seed=arguments.seed)
                document["seed"] = arguments.seed
            else:
                figures = experiments.in_states([name], where, undisturbed)
            document[EACH.get(name, RANDOM)] = figures.document()
            print(json.dumps(figures.document()), file=sys.stderr, flush=True)  # kept, should a later one fail
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
