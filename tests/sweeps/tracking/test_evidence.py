import math
from pathlib import Path

import pytest

from llama.data.repetition import repetition
from llama.errors import UserError
from llama.metric_names import GPU_SHARE, REPETITIONS, TRAINING_SECONDS, TRAINING_THREADS, UNIQUE_TOKENS, epochs_of
from llama.records import DONE, JOURNAL, JournalPoint, read_done, write_record
from sweeps.tracking.evidence import Evidence, final_rows, gather
from sweeps.tracking.journal_reader import JournalReader
from tests.sweeps.tracking.synthetic import (
    DOMAINS,
    START_MS,
    begin,
    make_config,
    make_point,
    train,
    write_done,
    write_mark,
    write_points,
)

RUN = make_config(16, 1024 * 40)


def all_rows(folder: Path) -> list[tuple[str, float, int, int]]:
    """What may be shown of the folder's journal."""
    return JournalReader(folder / JOURNAL).next_slab(gathered(folder).shown_bytes, 10**9).rows


def gathered(folder: Path) -> Evidence:
    evidence = gather(folder)
    assert evidence is not None
    return evidence


def test_nothing_is_known_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    assert gather(tmp_path) is None


def test_points_show_up_to_the_last_complete_checkpoint(tmp_path: Path) -> None:
    folder = begin(tmp_path, RUN)
    size = write_points(folder, [make_point(RUN, 1)])
    assert all_rows(folder) == []
    write_mark(folder, RUN, 1, size)
    write_points(folder, [make_point(RUN, 2)])
    assert {step for _, _, _, step in all_rows(folder)} == {1024}


def test_a_done_run_shows_its_whole_journal(tmp_path: Path) -> None:
    folder = begin(tmp_path, RUN)
    write_points(folder, [make_point(RUN, 1), make_point(RUN, 2)])
    write_done(folder, RUN, 2, reason="loss nan at step 2")
    assert {step for _, _, _, step in all_rows(folder)} == {1024, 2048}


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = begin(tmp_path, RUN)
    size = write_points(folder, [make_point(RUN, 1)])
    with open(folder / JOURNAL, "a") as file:
        file.write('{"step":2,"tok')
    write_mark(folder, RUN, 1, size + 99)
    assert {step for _, _, _, step in all_rows(folder)} == {1024}


def test_values_that_are_not_finite_are_skipped(tmp_path: Path) -> None:
    folder = begin(tmp_path, RUN)
    metrics = {"train/loss": math.nan, "train/grad_norm": math.inf, "train/lr": 0.1, "val/loss": None}
    write_points(folder, [JournalPoint(step=1, tokens=1024, unix_ms=START_MS, metrics=metrics)])
    write_done(folder, RUN, 1, reason="nan")
    assert all_rows(folder) == [("train/lr", 0.1, START_MS, 1024)]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = begin(tmp_path, RUN)
    (folder / JOURNAL).write_text('{"step": "many"}\n')
    (folder / DONE).write_text('{"nonsense": 1}')
    with pytest.raises(UserError, match="DONE"):
        gather(folder)
    write_done(folder, RUN, 1)
    with pytest.raises(UserError, match=JOURNAL):
        all_rows(folder)


def test_done_adds_only_what_the_journal_does_not_say_of_the_last_step(tmp_path: Path) -> None:
    evidence = gathered(train(tmp_path, RUN))
    account = {TRAINING_SECONDS: 0.04 * 40, TRAINING_THREADS: 1.0, GPU_SHARE: 0.0}
    assert final_rows(evidence) == [(name, value, evidence.end_ms, RUN.tokens) for name, value in account.items()]


def test_what_a_run_drew_from_its_corpus_goes_along(tmp_path: Path) -> None:
    folder = train(tmp_path, RUN)
    done = read_done(folder)
    assert done is not None
    drawn = repetition({"code": 10_241, "prose": 10**9}, DOMAINS, context_length=128, tokens=40 * 1024)
    write_record(folder / DONE, done.model_copy(update={"metrics": done.metrics | drawn.metrics}))
    rows = {name: value for name, value, _, _ in final_rows(gathered(folder))}
    assert {name: rows[name] for name in rows if name.startswith("data/")} == {
        UNIQUE_TOKENS: 160 * 128 + 80 * 128,
        REPETITIONS: 320 / 240,
        epochs_of("code"): 2.0,
        epochs_of("prose"): 160 / ((10**9 - 1) // 128),
    }


def test_a_run_starts_with_its_config_or_in_a_younger_copy_with_its_first_point(tmp_path: Path) -> None:
    evidence = gathered(train(tmp_path, RUN))
    assert evidence.start_ms == make_point(RUN, RUN.log_every_steps).unix_ms  # made-up points are older than the files
    assert evidence.end_ms == make_point(RUN, 40, validated=True).unix_ms
