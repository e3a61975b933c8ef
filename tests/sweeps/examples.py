"""A small sweep for tests, and changes to it."""

import math
from copy import deepcopy
from typing import Any

from cluster.executor import Node
from cluster.task import Resources
from sweeps.designs.design import Design, make_design
from sweeps.designs.numerics import Numerics
from sweeps.designs.run_configs import CorpusFacts
from sweeps.designs.spec import SweepSpec
from sweeps.hardware.calibration import Calibration
from sweeps.hardware.machine import Machine
from sweeps.hardware.place import Place
from sweeps.hardware.speeds import Speeds
from sweeps.planning.plan import make_plan
from sweeps.planning.records import Plan
from sweeps.planning.schedule import foretell

FACTS = CorpusFacts(
    digest="c" * 64,
    vocab_size=512,
    train_tokens={"code": 8_000_000, "prose": 2_000_000},
    validation_tokens={"code": 400_000, "prose": 100_000},
)
CPU = Numerics("float32", compile_from_flops=math.inf, attention_kernel="flash")

SWEEP: dict[str, Any] = {
    "name": "example",
    "corpus": {"domains": {"code": {"stdlib": "code", "weight": 3}, "prose": {"stdlib": "prose", "weight": 1}}},
    "ladder": {"widths": [16, 32], "context_length": 128},
    "budgets": {"flops": [1e11, 2e11, 4e11]},
    "recipe": {"name": "inverse_width", "reference_budget": 4e11},
    "evaluation": {"validation_tokens": 65_536},
}


def sweep(**changes: Any) -> SweepSpec:
    """The example with changes by dotted key (`budgets__flops=[..]`); None removes a key."""
    values = deepcopy(SWEEP)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        block = values
        for parent in parents:
            block = block.setdefault(parent, {})
        if value is None:
            block.pop(last, None)
        else:
            block[last] = value
    return SweepSpec.model_validate(values)


def design(**changes: Any) -> Design:
    return make_design(sweep(**changes), FACTS, CPU)


def plan_on_cpus(found: Design, calibration: Calibration, *, slots: int = 2, memory_bytes: int | None = None) -> Plan:
    """The plan of a design on one machine with so many cores, a run on each."""
    machine = Machine("cpu", "some processor", "2.13.0")
    place = Place(machine=machine, nodes=(Node(id="here", cpus=slots),), memory_bytes=memory_bytes)
    speeds = Speeds(calibration=calibration)
    schedule = foretell(found, speeds, place.nodes, dict.fromkeys(found.models, Resources()))
    return make_plan(found, speeds, place, schedule, packed={})
