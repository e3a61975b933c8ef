"""`isoloss tune`: open the study, search through the supervisor, and leave what was found as a report and in MLflow.

    <storage>/sweeps/<name>/tuning/
        optuna.journal    every suggestion, written before it is tried, and what came of it (Optuna's JournalStorage)
        decode/           a search for shapes: what each generation's serving cost was measured at
        report/           study.json, trials.csv, the pictures, and recipe.yaml or front.csv

Trials are runs of the sweep as any other: `isoloss status` lists them, `isoloss sync` mirrors them. A driver that is killed is
gone on with by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC
from functools import cache
from pathlib import Path

from analysis.runs.mlflow_uri import masked
from cluster.executor import Executor
from cluster.session import open_session
from cluster.signals import signals_exit
from llama.config import digest
from llama.errors import UserError
from llama.full_disk import naming_a_full_disk
from llama.records import Record, now_ms, read_record, write_record
from llama.sweep_index import SweepRun
from sweeps.designs.spec import load_sweep
from sweeps.designs.tune_block import Tune
from sweeps.hardware.place import Place, this_place
from sweeps.launching.cluster_place import cluster_place
from sweeps.launching.hold import hold_sweep
from sweeps.launching.mirrored import Mirrored
from sweeps.launching.own_ray import own_ray
from sweeps.planning.prepare import Prepared, prepare, require_fit
from sweeps.storage import Storage, find_source, open_sweep, register_sweep
from sweeps.tracking import (
    Mirror,
    StudyReport,
    TrackingError,
    check_tracking,
    default_tracking_uri,
    log_report,
)
from sweeps.tuning import shape_study
from sweeps.tuning.decode_bench import DecodeBench
from sweeps.tuning.rate_report import RECIPE, rate_metrics, write_rate_report
from sweeps.tuning.rate_search import RateTrials, cells_of, search_rates
from sweeps.tuning.rate_study import check_held_out, check_runs, fit_study, recipe_of, study_of
from sweeps.tuning.shape_search import ShapeTrial, ShapeTrials, search_shapes
from sweeps.tuning.suggestions import Suggestions, open_journal
from sweeps.tuning.training import Progress, Trainer
from sweeps.tuning.trials import Trial

TUNING = "tuning"
STUDY = "study.json"
JOURNAL = "optuna.journal"


@dataclass(frozen=True, kw_only=True)
class TuningContext:
    """What a search works with."""

    prepared: Prepared
    place: Place
    open_executor: Callable[[], Executor]
    """Called when something is to be trained or measured, and not before: a study that has ended needs no Ray."""
    mirror: Mirror
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.prepared.storage.sweep(self.prepared.spec.name) / TUNING

    def show(self, runs: Sequence[SweepRun]) -> None:
        """Make these runs the sweep's, for MLflow, status and sync. A run that two of them name is the first one's."""
        by_key = {run.key: run for run in reversed(runs)}
        index = self.prepared.index.model_copy(update={"runs": [run for run in runs if by_key[run.key] is run]})
        register_sweep(self.prepared.storage, index, self.prepared.yaml_path)
        self.mirror.follow(index)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a tuning came to."""

    study: Record
    report: Path
    headline: str
    metrics: Mapping[str, float]
    """For MLflow's parent run."""
    summary: str
    mirror_trouble: str | None = None


def tune_sweep(
    argument: str,
    storage: Storage,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    wait: bool = False,
    say: Callable[[str], None],
) -> Tuned:
    """Run what is missing of the study that SWEEP describes, on a local Ray or on the standing cluster at `address`.

    Raises:
        UserError: SWEEP is no tuning study, its trials tell nothing, or what `launch_sweep` refuses.
        TrialsFailed: runs failed for good.
    """
    source = find_source(argument, storage)
    if load_sweep(source.yaml_path).tune is None:
        raise UserError(f"{source.yaml_path}: the block tune is missing: it says what to search (docs/tune.md)")
    source.storage.require_writable()
    uri = default_tracking_uri(source.storage.root, tracking_uri)
    warning = check_tracking(uri)
    if warning is not None:
        say(warning)
    with ExitStack() as stack:
        stack.enter_context(signals_exit())
        stack.enter_context(naming_a_full_disk(source.storage.root))
        executor = stack.enter_context(open_session(address=address)) if address is not None else None
        place = this_place() if executor is None else cluster_place(executor)
        prepared = prepare(argument, source.storage, place, say=say)
        require_fit([prepared.plan])
        stack.enter_context(hold_sweep(prepared.storage, prepared.spec.name, wait=wait, say=say))

        @cache
        def open_executor() -> Executor:
            if executor is not None:
                return executor
            return stack.enter_context(own_ray(prepared, place, say=say))

        return run_tuning(prepared, place, open_executor, uri, say=say)


def run_tuning(
    prepared: Prepared,
    place: Place,
    open_executor: Callable[[], Executor],
    tracking_uri: str,
    *,
    say: Callable[[str], None],
) -> Tuned:
    """The search on the executor of this place, which stays open from its first use."""
    empty = prepared.index.model_copy(update={"runs": []})
    mirror = Mirror(prepared.storage.root, empty, tracking_uri)
    context = TuningContext(prepared=prepared, place=place, open_executor=open_executor, mirror=mirror, say=say)
    with Mirrored(mirror, say=say) as mirrored:
        tuned = _tune_rates(context) if _spec(context).learning_rate is not None else _tune_shapes(context)
    logged = _log(prepared, tracking_uri, tuned, say)
    return replace(tuned, mirror_trouble=mirrored.trouble or logged)


def _spec(context: TuningContext) -> Tune:
    assert context.prepared.spec.tune is not None  # `tune_sweep` refuses
    return context.prepared.spec.tune


def _tune_rates(context: TuningContext) -> Tuned:
    prepared = context.prepared
    spec, corpus, numerics = prepared.spec, prepared.design.corpus, prepared.design.numerics
    tune = _spec(context)
    assert tune.learning_rate is not None
    search, cells = tune.learning_rate, cells_of(spec, corpus, numerics)
    trials = RateTrials(spec=spec, corpus=corpus, numerics=numerics, search=search, cells=cells)
    studies = trials.open_studies(open_journal(context.folder / JOURNAL), seed=tune.seed)
    progress = _progress(trials, studies)
    trainer = Trainer(prepared, context.place, context.open_executor, progress, say=context.say)
    ended: set[tuple[str, int]] = {(name, told.number) for name, study in studies.items() for told in study.told}

    def on_change(tried: Sequence[Trial]) -> None:
        context.show([_sweep_run(trials, one) for one in tried])
        for one in tried:
            if one.state != "running" and (one.cell, one.number) not in ended:
                ended.add((one.cell, one.number))
                if one.state == "censored":
                    left = trials.spared_flops(one)
                    progress.add(left, found=True)
                if one.state != "finished":
                    context.say(
                        f"{one.cell}-t{one.number}: {one.state} (rate {one.peak_lr:.3g}, batch {one.batch_tokens})"
                    )

    for name, reason, _ in prepared.design.left_out:
        context.say(f"left out: {name}: {reason}")
    context.say(f"{len(cells)} sizes and horizons, {search.trials} trials each")
    tried = search_rates(trials, studies, trainer, on_change=on_change)
    laws, curves = fit_study(trials, tried, seed=tune.seed)
    newest = max(told.datetime_complete for study in studies.values() for told in study.told)
    tuned = recipe_of(trials, laws, date=newest.astimezone(UTC).date().isoformat())
    checks = check_runs(trials, tuned)
    context.show(
        [_sweep_run(trials, one) for one in tried]
        + [
            _entry(stretch.config.key, stretch.name, {"tune.study": cell, "tune.recipe": label}, held_out=True)
            for (cell, label, _), stretch in checks.items()
        ]
    )
    held_out = check_held_out(trials, laws, curves, tuned, trainer)
    study = study_of(trials, tried, laws, tuned, held_out)
    folder = context.folder / "report"
    if not _is_written(study, folder):
        write_rate_report(study, tried, laws, curves, folder)
        write_record(folder / STUDY, study)
    lines = [study.headline, *study.warnings, f"the recipe: {folder / RECIPE}"]
    return Tuned(
        study=study,
        report=folder,
        headline=study.headline,
        metrics=rate_metrics(study),
        summary="\n".join(lines),
    )


def _tune_shapes(context: TuningContext) -> Tuned:
    prepared, tune = context.prepared, _spec(context)
    assert tune.shape is not None
    trials = ShapeTrials(
        spec=prepared.spec, corpus=prepared.design.corpus, numerics=prepared.design.numerics, search=tune.shape
    )
    suggestions = trials.open_study(open_journal(context.folder / JOURNAL), seed=tune.seed)
    done = len(suggestions.told)
    trial_flops = trials.flops * len(prepared.spec.seeds.base)
    progress = Progress(trial_flops * (tune.shape.trials + 1))
    progress.add(trial_flops * done, found=True)
    trainer = Trainer(prepared, context.place, context.open_executor, progress, say=context.say)

    def on_change(shaped: Sequence[ShapeTrial]) -> None:
        context.show([run for one in shaped for run in _shape_runs(one)])

    context.say(f"{tune.shape.trials} shapes at {trials.flops:g} FLOPs each, {done} of them known")
    measure = DecodeBench(prepared, context.place, context.open_executor, context.folder / "decode")
    shaped = search_shapes(trials, suggestions, trainer, measure, on_change=on_change)
    study = shape_study.study_of(trials, suggestions, shaped, measure, seed=tune.seed)
    folder = context.folder / "report"
    if not _is_written(study, folder):
        shape_study.write_shape_report(study, shaped, folder)
        write_record(folder / STUDY, study)
    lines = [study.headline, *study.warnings, f"the front: {folder / shape_study.FRONT}"]
    return Tuned(
        study=study,
        report=folder,
        headline=study.headline,
        metrics=shape_study.shape_metrics(study),
        summary="\n".join(lines),
    )


def _is_written(study: Record, folder: Path) -> bool:
    """Whether the report stands there whole: its document is written last."""
    try:
        return read_record(folder / STUDY, type(study)) == study
    except UserError:  # damaged, or another version's
        return False


def _shape_runs(one: ShapeTrial) -> list[SweepRun]:
    name = "reference" if one.number < 0 else f"shape-t{one.number}"
    tags = {"tune.study": "shape", "tune.trial": str(one.number), "tune.state": one.state}
    if len(one.run_keys) == 1:
        return [_entry(one.run_keys[0], name, tags)]
    return [_entry(key, f"{name}-{place}", tags) for place, key in enumerate(one.run_keys)]


def _progress(trials: RateTrials, studies: dict[str, Suggestions]) -> Progress:
    whole = {cell.name: cell.flops for cell in trials.cells}
    progress = Progress(sum(trials.runs_of(cell) * cell.flops for cell in trials.cells))
    progress.add(sum(whole[name] * len(study.told) for name, study in studies.items()), found=True)
    return progress


def _sweep_run(trials: RateTrials, one: Trial) -> SweepRun:
    held_out = next(cell.held_out for cell in trials.cells if cell.name == one.cell)
    tags = {"tune.study": one.cell, "tune.trial": str(one.number), "tune.state": one.state}
    return _entry(one.run_key, f"{one.cell}-t{one.number}", tags, held_out=held_out, censored=one.state == "censored")


def _entry(key: str, name: str, tags: dict[str, str], *, held_out: bool = False, censored: bool = False) -> SweepRun:
    return SweepRun(
        key=key,
        name=name,
        trunk=None,
        is_trunk=False,
        flops_budget=None,
        held_out=held_out,
        censored=censored,
        tags=tags,
    )


def _log(prepared: Prepared, tracking_uri: str, tuned: Tuned, say: Callable[[str], None]) -> str | None:
    """The report onto the parent run; what kept it from there."""
    report = StudyReport(
        folder=tuned.report,
        digest=digest(tuned.study.model_dump(mode="json")),
        unix_ms=now_ms(),
        metrics=tuned.metrics,
        headline=tuned.headline,
    )
    try:
        index = open_sweep(str(prepared.storage.sweep(prepared.spec.name)), prepared.storage).index
        log_report(prepared.storage.root, index, tracking_uri, report)
    except (TrackingError, UserError) as error:
        return f"the report is not in MLflow at {masked(tracking_uri)} ({error}): the same command tries again"
    say(f"the report is in MLflow at {masked(tracking_uri)}, on the parent run of {prepared.spec.name}")
    return None
