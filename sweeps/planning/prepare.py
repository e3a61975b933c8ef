"""From what a person typed to what will run: the spec read, the corpus built, the design and plan made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.task import Resources
from llama.accounting import count_parameters
from llama.config import RunConfig
from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus, open_corpus
from llama.errors import UserError
from llama.records import read_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex
from sweeps.designs.design import Design, make_design
from sweeps.designs.numerics import resolve_numerics
from sweeps.designs.run_configs import CorpusFacts
from sweeps.designs.spec import SweepSpec, load_sweep
from sweeps.hardware.assumed_speed import AssumedSpeed
from sweeps.hardware.calibration import Calibration, Setup, TrainedShape, load
from sweeps.hardware.finished_speeds import finished_speeds
from sweeps.hardware.packing import choose, runs_a_gpu, share_of
from sweeps.hardware.place import Place
from sweeps.hardware.speeds import FinishedSpeeds, Speeds
from sweeps.planning.plan import make_plan
from sweeps.planning.records import Plan
from sweeps.planning.schedule import Schedule, foretell
from sweeps.storage import Storage, SweepSource, find_source

#: Below this many parameters one run leaves most of a GPU idle, so several share it.
SMALL_MODEL_PARAMS = 20_000_000
SMALL_MODEL_GPU_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a person says of a machine, over what is known of it."""

    mfu: float | None = None
    """Of GPUs, at every size."""
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that planning and launching share."""

    storage: Storage
    yaml_path: Path
    index: SweepIndex
    corpus: Corpus
    design: Design
    place: Place
    setup: Setup
    calibration: Calibration
    """Each shape alone on the machine."""
    speeds: Speeds
    """What the plan goes by: what finished runs did above all."""
    schedule: Schedule
    plan: Plan
    stated: Stated

    @property
    def spec(self) -> SweepSpec:
        return self.design.spec

    @property
    def names(self) -> dict[str, str]:
        """Of all runs, trunks included, by key."""
        return {run.record.key: run.record.name for run in self.design.runs}


def prepare(
    argument: str, storage: Storage, place: Place, *, stated: Stated = Stated(), say: Callable[[str], None]
) -> Prepared:
    """Read SWEEP, build its corpus if it isn't there, and work out its runs and plan.

    Raises:
        UserError: the YAML, the corpus or the storage is not usable, or a run asks for more than any node has; the message
            names the YAML.
    """
    source = find_source(argument, storage)
    spec = load_sweep(source.yaml_path)
    try:
        return _prepare(source, spec, place, stated, say)
    except UserError as error:
        raise UserError(f"{source.yaml_path}: {error}") from None


def _prepare(
    source: SweepSource, spec: SweepSpec, place: Place, stated: Stated, say: Callable[[str], None]
) -> Prepared:
    storage = source.storage
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
    # What was measured alone is our own trainer's speed.
    calibration = load(setup) if spec.trainer is None else Calibration(points=())
    share = run_resources(design, place, calibration).gpus
    finished = finished_speeds(storage, setup, gpu_share=share, trainer=spec.trainer)
    speeds, schedule, plan = _plan(design, place, calibration, finished, stated)
    return Prepared(
        storage=storage,
        yaml_path=source.yaml_path,
        index=index,
        corpus=corpus,
        design=design,
        place=place,
        setup=setup,
        calibration=calibration,
        speeds=speeds,
        schedule=schedule,
        plan=plan,
        stated=stated,
    )


def require_fit(plans: Sequence[Plan]) -> None:
    """Raise UserError where a size of these plans is too large for the GPUs that it would get."""
    reasons = [
        f"{plan.sweep} does not fit {plan.place}: {size.size}: {size.layout}"
        for plan in plans
        for size in plan.sizes
        if not size.fits
    ]
    if reasons:
        raise UserError("\n".join(reasons))


def calibrated(prepared: Prepared, calibration: Calibration) -> Prepared:
    """Planned anew with other speeds of each shape alone."""
    share = run_resources(prepared.design, prepared.place, calibration).gpus
    finished = finished_speeds(prepared.storage, prepared.setup, gpu_share=share, trainer=prepared.spec.trainer)
    speeds, schedule, plan = _plan(prepared.design, prepared.place, calibration, finished, prepared.stated)
    return replace(prepared, calibration=calibration, speeds=speeds, schedule=schedule, plan=plan)


def _plan(
    design: Design, place: Place, calibration: Calibration, finished: FinishedSpeeds, stated: Stated
) -> tuple[Speeds, Schedule, Plan]:
    resources = run_resources(design, place, calibration)
    assumed = None
    if place.accelerator is not None:
        gpus = max(1, int(resources.gpus))
        assumed = AssumedSpeed(accelerator=place.accelerator, dtype=design.numerics.dtype, gpus=gpus, mfu=stated.mfu)
    shared = runs_a_gpu(resources.gpus)
    speeds = Speeds(calibration=calibration, finished=finished, assumed=assumed, runs_a_gpu=shared)
    schedule = foretell(design, speeds, place.nodes, dict.fromkeys(design.models, resources))
    packed = {size: calibration.shared(TrainedShape.of(config)) for size, config in hungriest(design).items()}
    plan = make_plan(
        design,
        speeds,
        place,
        schedule,
        packed={size: measured for size, measured in packed.items() if measured},
        usd_per_gpu_hour=stated.usd_per_gpu_hour,
    )
    return speeds, schedule, plan


def _corpus(spec: SweepSpec, source: SweepSource, say: Callable[[str], None]) -> Corpus:
    """The corpus that the sweep was launched on where its spec is unchanged, whether or not its text is still there; else one
    built from the text.
    """
    try:
        index = read_record(source.storage.sweep(spec.name) / SWEEP_INDEX, SweepIndex)
    except UserError as error:  # a launch writes it again
        say(str(error))
        index = None
    if index is not None and index.sweep_id == spec.digest[:16]:
        folder = source.storage.root / index.corpus_folder
        if folder.exists():
            return open_corpus(folder, verify=True)
    return build_corpus(spec.corpus, source.storage.root, base=source.spec_folder, report=say)


def gpu_share(design: Design, calibration: Calibration) -> float:
    """GPUs of one run: what the spec says, else by what was measured of runs that share one, else by a rule of thumb.

    All sizes of a sweep take the same share, so that of the size that may be packed least.

    Raises:
        UserError: even one run of a size leaves no reserve of the GPU's memory.
    """
    if design.spec.resources.gpus is not None:
        return design.spec.resources.gpus
    shared = [calibration.shared(TrainedShape.of(config)) for config in hungriest(design).values()]
    if all(shared):
        return share_of(min(choose(speeds).runs for speeds in shared if speeds))
    largest = max(count_parameters(model).n_params for model in design.models.values())
    return SMALL_MODEL_GPU_SHARE if largest < SMALL_MODEL_PARAMS else 1.0


def hungriest(design: Design) -> dict[str, RunConfig]:
    """Of each size the run with the largest batch."""
    found: dict[str, RunConfig] = {}
    for run in design.runs:
        held = found.get(run.size)
        if held is None or run.config.recipe.batch_sequences > held.recipe.batch_sequences:
            found[run.size] = run.config
    return found


def run_resources(design: Design, place: Place, calibration: Calibration) -> Resources:
    """What one run takes: GPUs that the spec states whether or not there are any."""
    stated = design.spec.resources
    gpus = gpu_share(design, calibration) if place.gpus else stated.gpus or 0.0
    return Resources(cpus=float(stated.cpus), gpus=gpus)
