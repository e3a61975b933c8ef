"""Reading runs: sweep folders, CSV and Parquet, and what becomes of rows that can't be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.runs import load_curves, load_runs
from analysis.table import COLUMNS, RunTable
from llama.accounting import count_parameters, training_flops_per_token
from llama.errors import UserError
from llama.records import DONE, FAILURE, Failure, write_record
from tests.analysis.synthetic import DECODE_SECONDS, TRAIN_SECONDS, SyntheticSweep, write_sweep


class TestSweepFolder:
    def test_branches_are_rows_and_trunks_are_not(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        assert list(table.frame.columns[: len(COLUMNS)]) == list(COLUMNS)
        assert table.domains == ("code", "prose")
        branches = [run for run in sweep.index.runs if not run.is_trunk]
        assert list(table.frame["run_id"]) == [run.key for run in branches]
        assert len(table.usable) == len(branches) - 1

    def test_counts_and_flops_are_the_accountants(self, sweep: SyntheticSweep) -> None:
        for row in load_runs(sweep.folder).usable.to_dict("records"):
            model = sweep.configs[row["run_id"]].model
            counts = count_parameters(model)
            assert (row["n_params"], row["n_params_matmul"]) == (counts.n_params, counts.n_params_matmul)
            assert row["flops"] == row["n_tokens"] * training_flops_per_token(model)

    def test_seeds_share_a_design_and_branches_a_group(self, sweep: SyntheticSweep) -> None:
        frame = load_runs(sweep.folder).usable.set_index("name")
        seeds = frame.loc[[f"w16-C1e+11-s{seed}" for seed in range(3)]]
        assert seeds["design"].nunique() == 1
        assert seeds["group"].nunique() == 3
        assert list(seeds["seed"]) == [0, 1, 2]
        branches = frame.loc[["w16-C1e+11-s0", "w16-C8e+11-s0"]]
        assert branches["design"].nunique() == 2
        assert branches["group"].nunique() == 1

    def test_training_time_is_of_the_whole_run(self, sweep: SyntheticSweep) -> None:
        row = load_runs(sweep.folder).usable.iloc[0]
        seconds_per_token = TRAIN_SECONDS[0] + TRAIN_SECONDS[1] * row["n_params"]
        assert row["tokens_per_second"] == pytest.approx(1 / seconds_per_token)
        assert row["training_seconds"] == pytest.approx(row["n_tokens"] * seconds_per_token)

    def test_a_shape_measured_once_holds_for_all_its_runs(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        assert set(table.inference) == set(table.frame["run_id"])
        row = table.usable.iloc[-1]
        assert row["decode_tokens_per_second"] == pytest.approx(
            1 / (DECODE_SECONDS[0] + DECODE_SECONDS[1] * row["n_params"])
        )
        assert row["saturation_batch"] == 32

    def test_unfinished_failed_and_broken_runs_are_excluded_with_a_reason(self, tmp_path: Path) -> None:
        made = write_sweep(tmp_path)
        keys = [run.key for run in made.index.runs if not run.is_trunk]
        folders = [tmp_path / "runs" / key for key in keys]
        (folders[0] / DONE).unlink()
        (folders[1] / DONE).unlink()
        write_record(folders[1] / FAILURE, Failure(attempt=3, kind="out of memory", message="15 GiB wanted", unix_ms=0))
        shutil.rmtree(folders[2])
        (folders[3] / DONE).write_text("{", encoding="utf-8")
        table = load_runs(made.folder)
        reasons = [out.reason for out in table.excluded]
        assert reasons[:3] == ["unfinished", "failed: out of memory: 15 GiB wanted", "unstarted"]
        assert reasons[3].startswith("unreadable: ")
        assert list(table.frame["status"][:3]) == ["started", "failed", "absent"]

    def test_curves(self, sweep: SyntheticSweep) -> None:
        curves = {curve.run_id: curve for curve in load_curves(sweep.folder)}
        kinds = [curve.kind for curve in curves.values()]
        assert kinds.count("trunk") == sum(run.is_trunk for run in sweep.index.runs)
        branch = next(curve for curve in curves.values() if curve.kind == "branch" and len(curve.train_tokens_G) > 5)
        assert branch.trunk in curves
        assert (np.diff(branch.train_tokens_G) > 0).all()
        fork_step = sweep.configs[branch.run_id].fork_step
        assert fork_step is not None
        assert branch.train_tokens_G[0] > fork_step * 1024
        assert len(branch.val_loss_G) == 1

    def test_an_output_folder_with_one_sweep_names_it(self, sweep: SyntheticSweep) -> None:
        assert load_runs(sweep.storage).source == load_runs(sweep.folder / "runs.json").source == "sweep synthetic"

    def test_what_is_no_source(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            load_runs(tmp_path / "nothing")
        with pytest.raises(UserError, match=r"it has no runs\.json"):
            load_runs(tmp_path)

    def test_a_file_of_another_kind_is_no_source(self, tmp_path: Path) -> None:
        path = tmp_path / "README.md"
        path.write_text("# Runs\n", encoding="utf-8")
        for read in (load_runs, load_curves):
            with pytest.raises(UserError, match=r"README\.md is neither a sweep's folder"):
                read(path)

    @pytest.mark.parametrize("damage", [b"{", b"", b"\xff\xfe", b'{"outcome": "finished"}'])
    def test_a_damaged_end_excludes_its_run_alone(self, tmp_path: Path, damage: bytes) -> None:
        made = write_sweep(tmp_path)
        key = next(run.key for run in made.index.runs if not run.is_trunk)
        (tmp_path / "runs" / key / DONE).write_bytes(damage)
        table = load_runs(made.folder)
        assert [out.run_id for out in table.excluded] == [key]
        assert table.excluded[0].reason.startswith("unreadable: ")


def csv(folder: Path, text: str) -> Path:
    path = folder / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return path


class TestCsv:
    def test_columns_and_defaults(self, tmp_path: Path) -> None:
        table = load_runs(
            csv(
                tmp_path,
                "n_params,n_tokens,loss,flops,flops_budget,group,held_out,weight,run_id,colour\n"
                "1e8, 2e9 ,3.1,1.2e18,1e18,a,true,2,x,red\n2e8,4e9,2.9,,,b,,,y,\n",
            )
        )
        first, second = table.frame.to_dict("records")
        assert (first["n_params"], first["n_tokens"], first["flops_budget"]) == (1e8, 2e9, 1e18)
        assert (first["held_out"], first["weight"], first["run_id"], first["name"]) == (True, 2.0, "x", "x")
        assert (second["held_out"], second["weight"], second["group"]) == (False, 1.0, "b")
        assert np.isnan(second["flops"])
        assert len(table.usable) == 2
        assert "colour" not in table.frame

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("x,2e9,3", "invalid: n_params is 'x', which is not a number"),
            ("1.4B,2e9,3", "invalid: n_params is '1.4B', which is not a plain number: write 1.4e9"),
            ("300M,2e9,3", "invalid: n_params is '300M', which is not a plain number: write 3e8"),
            ("6.7 billion,2e9,3", "invalid: n_params is '6.7 billion', which is not a plain number: write 6.7e9"),
            ("1.2.3M,2e9,3", "invalid: n_params is '1.2.3M', which is not a number"),
            (
                '"1,000",2e9,3',
                "invalid: n_params is '1,000', which is not a plain number: write 1000, or a point for a decimal comma",
            ),
            ('1e8,2e9,"3,25"', "invalid: loss is '3,25', which is not a plain number: write 3.25"),
            ("1e8,,3", "missing: n_tokens is missing"),
            ("1e8,2e9,nan", "missing: loss is missing"),
            ("1e8,2e9", "missing: loss is missing"),
            ("1e8,2e9,inf", "invalid: loss is infinite"),
            ("1e8,2e9,-3", "invalid: loss is -3, which is negative"),
            ("1e8,0,3", "invalid: n_tokens is 0"),
        ],
    )
    def test_a_bad_value_excludes_its_row_with_the_row_named(self, tmp_path: Path, row: str, reason: str) -> None:
        table = load_runs(csv(tmp_path, f"n_params,n_tokens,loss\n1e8,2e9,3\n{row}\n"))
        assert [(out.row, out.reason) for out in table.excluded] == [(2, reason)]
        assert len(table.usable) == 1

    def test_a_run_on_cpus_has_no_gpu(self, tmp_path: Path) -> None:
        table = load_runs(csv(tmp_path, "n_params,n_tokens,loss,training_threads,gpu_share\n1,1,1,4,0\n1,2,1,,0.5\n"))
        assert list(table.usable["training_threads"]) == [4, 1]
        assert list(table.usable["gpu_share"]) == [0, 0.5]

    def test_a_repeated_run_id_is_the_same_run(self, tmp_path: Path) -> None:
        table = load_runs(csv(tmp_path, "n_params,n_tokens,loss,run_id\n1,1,1,a\n2,2,2,b\n3,3,3,a\n"))
        assert [(out.row, out.reason) for out in table.excluded] == [(3, "duplicate: the same run id as row 1")]

    def test_equal_rows_without_ids_are_two_runs(self, tmp_path: Path) -> None:
        assert len(load_runs(csv(tmp_path, "n_params,n_tokens,loss\n1,1,1\n1,1,1\n")).usable) == 2

    def test_a_missing_column_offers_the_nearest(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "Params,n_tokens,loss\n1,1,1\n")
        with pytest.raises(UserError, match=r"no column 'n_params'; the nearest is 'Params'.*--n-column"):
            load_runs(path)
        assert load_runs(path, columns={"n_params": "Params"}).frame["n_params"][0] == 1

    def test_a_longer_name_is_nearer_than_a_misspelt_one(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="the nearest is 'loss_val'"):
            load_runs(csv(tmp_path, "n_params,n_tokens,flops,loss_val\n1,1,1,1\n"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "can't be read as csv"),
            ("n_params,n_tokens,loss\n", "has no rows"),
        ],
    )
    def test_unusable_files(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_runs(csv(tmp_path, text))

    def test_not_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_bytes(b"n_params,n_tokens,loss\n1,1,\xff\xfe\n")
        with pytest.raises(UserError, match="can't be read as csv"):
            load_runs(path)

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text("n_params,n_tokens,loss\n1,1,1\n", encoding="utf-8-sig")
        assert len(load_runs(path).usable) == 1

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        cells=st.lists(
            st.lists(
                st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0'), max_size=8), min_size=3, max_size=3
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_any_cells_are_used_or_excluded(self, tmp_path: Path, cells: list[list[str]]) -> None:
        text = "n_params,n_tokens,loss\n" + "".join(",".join(row) + "\n" for row in cells)
        try:
            table = load_runs(csv(tmp_path, text))
        except UserError:
            return
        usable = table.usable[["n_params", "n_tokens", "loss"]].to_numpy()
        assert np.isfinite(usable).all()
        assert (usable > 0).all()
        assert len(table.usable) + len(table.excluded) == len(table.frame)


def test_parquet_reads_as_its_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n_params": [100, 200, None],
            "n_tokens": [1e9, 2e9, 3e9],
            "loss": [3.0, 2.0, 1.0],
            "held_out": [True, False, False],
        }
    )
    frame.to_parquet(tmp_path / "runs.parquet")
    frame.to_csv(tmp_path / "runs.csv", index=False)
    tables = [load_runs(tmp_path / name) for name in ("runs.parquet", "runs.csv")]
    assert [out.reason for out in tables[0].excluded] == ["missing: n_params is missing"]
    pd.testing.assert_frame_equal(tables[0].usable, tables[1].usable)
    assert list(tables[0].frame["held_out"]) == [True, False, False]


def test_a_table_written_out_reads_back(sweep: SyntheticSweep, tmp_path: Path) -> None:
    table = load_runs(sweep.folder)
    table.frame.to_csv(tmp_path / "runs.csv", index=False)
    again: RunTable = load_runs(tmp_path / "runs.csv")
    columns = [name for name in table.frame.columns if name != "row"]
    pd.testing.assert_frame_equal(again.frame[columns], table.frame[columns], check_exact=False)
