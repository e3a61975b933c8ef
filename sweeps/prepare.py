"""From what a person typed to what will run: the spec read, the corpus built, the design and plan made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.machine import available_cpus, visible_gpus
from llama.accounting import count_parameters
from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus, open_corpus
from llama.records import read_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex
from sweeps.calibration import Calibration, Machine, Setup, load, this_machine
from sweeps.design import CorpusFacts, Design, make_design
from sweeps.numerics import resolve_numerics
from sweeps.plan import Plan, make_plan
from sweeps.spec import SweepSpec, load_sweep
from sweeps.storage import Storage, SweepSource, find_source

#: Below this many parameters one run leaves most of a GPU idle, so several share it.
SMALL_MODEL_PARAMS = 20_000_000
SMALL_MODEL_GPU_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a launch may use: this machine, or the nodes of a standing cluster."""

    machine: Machine
    cpus: int
    gpus: int
    memory_bytes: int | None = None
    """What runs share; None where it isn't known: on GPUs, and on other machines."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that planning and launching share."""

    storage: Storage
    yaml_path: Path
    index: SweepIndex
    corpus: Corpus
    design: Design
    setup: Setup
    calibration: Calibration
    plan: Plan

    @property
    def spec(self) -> SweepSpec:
        return self.design.spec


def this_place() -> Place:
    """The machine at hand: the cores this process may use, and its GPUs if torch can use them."""
    machine = this_machine()
    gpus = len(visible_gpus()) if machine.device == "cuda" else 0
    memory = psutil.virtual_memory().total if gpus == 0 else None
    return Place(machine=machine, cpus=available_cpus(), gpus=gpus, memory_bytes=memory)


def prepare(argument: str, storage: Storage, place: Place, *, say: Callable[[str], None]) -> Prepared:
    """Read SWEEP, build its corpus if it isn't there, and work out its runs and plan.

    Raises:
        UserError: the YAML, the corpus or the storage is not usable.
    """
    source = find_source(argument, storage)
    storage, spec = source.storage, load_sweep(source.yaml_path)
    corpus = _corpus(spec, source, say)
    numerics = resolve_numerics(spec, place.machine.device, has_bf16_tiles=place.machine.has_bf16_tiles)
    design = make_design(spec, CorpusFacts.of(corpus), numerics)
    index = SweepIndex(
        sweep=spec.name,
        sweep_id=spec.digest[:16],
        corpus_folder=str(corpus.folder.relative_to(storage.root)),
        spec_folder=str(source.spec_folder),
        runs=[run.record for run in design.runs],
    )
    setup = Setup(place.machine, design.numerics, spec.resources.cpus)
    calibration = load(setup)
    return Prepared(
        storage=storage,
        yaml_path=source.yaml_path,
        index=index,
        corpus=corpus,
        design=design,
        setup=setup,
        calibration=calibration,
        plan=plan_at(place, design, calibration),
    )


def plan_at(place: Place, design: Design, calibration: Calibration) -> Plan:
    slots, device = run_slots(design, place), place.machine.device
    return make_plan(design, calibration, slots=slots, device=device, memory_bytes=place.memory_bytes)


def _corpus(spec: SweepSpec, source: SweepSource, say: Callable[[str], None]) -> Corpus:
    """The corpus that the sweep was launched on where its spec is unchanged, whether or not its text is still there; else one
    built from the text.
    """
    index = read_record(source.storage.sweep(spec.name) / SWEEP_INDEX, SweepIndex)
    if index is not None and index.sweep_id == spec.digest[:16]:
        folder = source.storage.root / index.corpus_folder
        if folder.exists():
            return open_corpus(folder, verify=True)
    return build_corpus(spec.corpus, source.storage.root, base=source.spec_folder, report=say)


def gpu_share(design: Design) -> float:
    """GPUs of one run: what the spec says, else a share that small models leave room for."""
    if design.spec.resources.gpus is not None:
        return design.spec.resources.gpus
    largest = max(count_parameters(model).n_params for model in design.models.values())
    return SMALL_MODEL_GPU_SHARE if largest < SMALL_MODEL_PARAMS else 1.0


def run_slots(design: Design, place: Place) -> int:
    """How many runs go side by side."""
    by_cpu = place.cpus // design.spec.resources.cpus
    if place.gpus == 0:
        return max(1, by_cpu)
    return max(1, min(by_cpu, int(place.gpus / gpu_share(design))))
