"""A sweep's first plan against its run folders."""

import pytest
from rich.console import Console

from llama.errors import UserError
from llama.metric_names import PROCESS_MEMORY_MEGABYTES
from llama.records import (
    COMPLETE,
    CONFIG,
    DONE,
    JOURNAL,
    CheckpointMark,
    Done,
    JournalPoint,
    checkpoint_folder,
    journal_line,
    write_record,
)
from llama.sweep_index import SweepIndex
from sweeps.planning.comparison import PlanComparison, compare_plan
from sweeps.planning.comparison_tables import comparison_tables, side_by_side
from sweeps.planning.stored_plan import keep_plan, read_plan
from sweeps.storage import Storage, SweepFolder
from tests.sweeps.examples import design, plan_on_cpus
from tests.sweeps.planning.test_gantt import note
from tests.sweeps.planning.test_plan import UNMEASURED, measured

FOUND = design()
SPEED = 50_000.0


class _Prepared:
    """The parts of a `Prepared` that a comparison reads."""

    def __init__(self, today: float):
        self.design = FOUND
        self.plan = plan_on_cpus(FOUND, measured(FOUND, today))


def sweep_in(storage: Storage) -> SweepFolder:
    plan = plan_on_cpus(FOUND, UNMEASURED)
    folder = storage.sweep(plan.sweep)
    folder.mkdir(parents=True, exist_ok=True)
    index = SweepIndex(
        sweep=plan.sweep,
        sweep_id=plan.sweep_id,
        corpus_folder="corpora/x",
        spec_folder="/",
        runs=[run.record for run in FOUND.runs],
    )
    return SweepFolder(storage=storage, folder=folder, index=index)


def train(storage: Storage, run, tokens_per_second: float, memory_megabytes: float | None = None) -> None:
    """Leave what a run that went at this speed leaves."""
    config, folder = run.config, storage.run(run.record.key)
    folder.mkdir(parents=True)
    write_record(folder / CONFIG, config)
    if run.record.is_trunk:
        step = max(segment.end_step for segment in FOUND.segments if segment.run_key == run.record.key)
        mark = CheckpointMark(
            step=step,
            tokens=step * config.batch_tokens,
            journal_bytes=0,
            training_seconds=step * config.batch_tokens / tokens_per_second,
            kept=True,
            sha256={},
        )
        checkpoint_folder(folder, step).mkdir(parents=True)
        write_record(checkpoint_folder(folder, step) / COMPLETE, mark)
        return
    own = (config.steps - config.fork_step) * config.batch_tokens
    done = Done(
        outcome="finished",
        reason=None,
        step=config.steps,
        tokens=config.tokens,
        flops=1.0,
        metrics={},
        training_seconds=own / tokens_per_second,
    )
    if memory_megabytes is not None:
        point = JournalPoint(step=1, tokens=1, unix_ms=1, metrics={PROCESS_MEMORY_MEGABYTES: memory_megabytes})
        (folder / JOURNAL).write_text(journal_line(point))
    write_record(folder / DONE, done)


def compare(storage: Storage, today: float = 40_000.0) -> PlanComparison:
    return compare_plan(_Prepared(today), sweep_in(storage))  # type: ignore[arg-type]


def test_a_finished_sweep_at_four_fifths_of_the_speed(tmp_path):
    storage = Storage(tmp_path)
    first = plan_on_cpus(FOUND, measured(FOUND, SPEED))
    sweep_in(storage)
    keep_plan(storage, first, finished_runs=0)
    keep_plan(storage, plan_on_cpus(FOUND, UNMEASURED), finished_runs=3)  # a later one changes nothing
    assert read_plan(storage, first.sweep, first.sweep_id).plan == first
    for number, run in enumerate(FOUND.runs):
        train(storage, run, 40_000, memory_megabytes=450 + number)
        note(storage, run.record.key, 1, "done", 10 * number, 10 * number + 15)
    found = compare(storage)
    assert (found.runs, found.finished_runs, found.planned_after_runs) == (6, 6, 0)
    for size, plan in zip(found.sizes, first.sizes, strict=True):
        assert (size.tokens_real, size.flops_real) == (plan.trained_tokens, plan.flops)
        assert size.seconds_predicted == pytest.approx(plan.device_seconds)
        assert size.seconds_ratio == pytest.approx(50 / 40)
        assert size.tokens_per_second_predicted == SPEED
        assert size.tokens_per_second_real == pytest.approx(40_000)
        assert size.tokens_per_second_today == pytest.approx(40_000)
    assert [size.memory_bytes_real for size in found.sizes] == [453e6, 457e6]
    assert found.flops_real == found.flops_predicted == first.flops
    assert found.wall_seconds_predicted == first.wall_seconds
    assert found.wall_seconds_real == 85  # eight attempts of 15 seconds, each begun 10 after the one before
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_tables(found))
    text = console.export_text()
    for part in ("3 of 3", "1.25", "before any run", "1 min 25 s real", "457MB"):
        assert part in text


def test_half_a_sweep_is_held_against_what_it_trained(tmp_path):
    storage = Storage(tmp_path)
    sweep_in(storage)
    keep_plan(storage, plan_on_cpus(FOUND, measured(FOUND, SPEED)), finished_runs=0)
    trunk, branch = FOUND.runs[:2]
    train(storage, trunk, SPEED)
    train(storage, branch, SPEED)
    found = compare(storage)
    assert (found.finished_runs, found.wall_seconds_real) == (1, None)
    first, second = found.sizes
    assert first.seconds_ratio == pytest.approx(1.0)
    assert 0 < first.flops_real < first.flops_predicted
    assert (second.seconds_real, second.seconds_ratio, second.tokens_per_second_real) == (None, None, None)


def test_a_plan_without_speeds_foretold_no_time(tmp_path):
    storage = Storage(tmp_path)
    sweep_in(storage)
    keep_plan(storage, plan_on_cpus(FOUND, UNMEASURED), finished_runs=0)
    for run in FOUND.runs:
        train(storage, run, SPEED)
    found = compare(storage)
    assert (found.seconds_predicted, found.sizes[0].seconds_predicted, found.sizes[0].seconds_ratio) == (None,) * 3
    assert found.sizes[0].tokens_per_second_real == pytest.approx(SPEED)
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_tables(found))
    assert "launch --calibrate measures each size first" in console.export_text()


@pytest.mark.parametrize(("runs_a_gpu", "known"), [(None, True), (1, True), (10, False)])
def test_memory_of_a_gpu_that_runs_share_is_no_run_s_own(tmp_path, runs_a_gpu, known):
    storage = Storage(tmp_path)
    sweep_in(storage)
    plan = plan_on_cpus(FOUND, UNMEASURED)
    sizes = [size.model_copy(update={"runs_a_gpu": runs_a_gpu}) for size in plan.sizes]
    keep_plan(storage, plan.model_copy(update={"sizes": sizes}), finished_runs=0)
    for run in FOUND.runs:
        train(storage, run, SPEED, memory_megabytes=450)
    assert {size.memory_bytes_real for size in compare(storage).sizes} == {450_000_000 if known else None}


def test_a_sweep_without_a_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match="no plan of sweep 'example' as it stands was kept"):
        compare(Storage(tmp_path))


def test_plans_side_by_side():
    plans = [plan_on_cpus(one, measured(one)) for one in (FOUND, design(name="other", seeds__base=[0, 1]))]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(side_by_side(plans))
    text = console.export_text()
    for part in ("example", "other", "wall-clock", "not known"):
        assert part in text
    assert [line.split() for line in text.splitlines() if line.strip().startswith("runs")] == [["runs", "6", "12"]]
