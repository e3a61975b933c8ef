"""Reading runs: sweep folders, CSV and Parquet, and what becomes of rows that can't be used."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.runs.conditions import rows_that_meet
from analysis.runs.load import load_curves, load_runs
from analysis.runs.table import COLUMNS, KINDS, RunTable, kind_of
from llama.accounting import count_parameters, training_flops_per_token
from llama.data.corpus import MANIFEST, CorpusManifest, DomainManifest
from llama.data.sources import CorpusSpec, DomainSpec
from llama.errors import UserError
from llama.records import CONFIG, DONE, FAILURE, JOURNAL, Failure, write_record
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

    @pytest.mark.parametrize("name", ["runs.json.txt", "runs.xlsx", "/dev/null"])
    def test_what_is_read_is_said_where_something_else_is_there(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        if not path.exists():
            path.write_text("[]", encoding="utf-8")
        with pytest.raises(UserError, match=r"nor a \.csv or \.tsv \(also gzipped\) or \.parquet with a row a run"):
            load_runs(path)

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

    def test_a_missing_column_of_another_name_is_asked_for_as_the_command_does(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no column 'wt'; .*--map weight=NAME$"):
            load_runs(csv(tmp_path, "n_params,n_tokens,loss\n1,1,1\n"), columns={"weight": "wt"})

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

    @pytest.mark.parametrize("delimiter", [";", "\t", ","])
    def test_the_header_says_what_delimits(self, tmp_path: Path, delimiter: str) -> None:
        rows = [["n_params", "n_tokens", "loss", "name"], ["1e8", "2e9", "3.5", "a"], ["2e8", "4e9", "3.25", "b"]]
        table = load_runs(csv(tmp_path, "".join(delimiter.join(row) + "\n" for row in rows)))
        assert list(table.usable["loss"]) == [3.5, 3.25]
        assert list(table.usable["name"]) == ["a", "b"]

    @pytest.mark.parametrize("name", ["runs.tsv", "RUNS.TSV.GZ"])
    def test_tab_separated_by_name(self, tmp_path: Path, name: str) -> None:
        data = b"n_params\tn_tokens\tloss\n1\t2\t3\n"
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
        assert list(load_runs(tmp_path / name).usable["loss"]) == [3]

    def test_a_delimiter_within_quotes_is_text(self, tmp_path: Path) -> None:
        text = 'n_params;n_tokens;loss;name\n1;2;3;"a;b,c\nd"\n'
        assert list(load_runs(csv(tmp_path, text)).usable["name"]) == ["a;b,c\nd"]

    def test_gzip(self, tmp_path: Path) -> None:
        text = b"n_params,n_tokens,loss\n1,1,1\n"
        # By its name and by its first bytes alone.
        for name in ("runs.csv.gz", "runs.csv"):
            (tmp_path / name).write_bytes(gzip.compress(text))
            assert len(load_runs(tmp_path / name).usable) == 1
        (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text)[:-9])
        with pytest.raises(UserError, match=r"cut\.csv\.gz can't be read as csv"):
            load_runs(tmp_path / "cut.csv.gz")

    def test_blank_lines_and_lines_of_bare_commas_are_no_rows(self, tmp_path: Path) -> None:
        text = "\nn_params , n_tokens,loss\n1,1,1\n\n,,\n2,2,x\n   \n,,\n"
        table = load_runs(csv(tmp_path, text))
        assert [(out.row, out.reason[:7]) for out in table.excluded] == [(2, "invalid")]
        assert len(table.usable) == 1

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8 .byte 0 is 0x89"),
            ("n_params,n_tokens,loss\n1,1,1\n".encode("utf-16"), "save it as CSV in UTF-8"),
            (b"n_params,n_tokens,loss\n1,1,\0\n", "holds zero bytes"),
            (b"  \n \n", "is empty"),
            (b"\xef\xbb\xbf", "is empty"),
            (b"n_params,n_tokens,loss\n1,1,1\n1,1,1,1\n", "line 3 has 4 cells, and the header names 3"),
            (b"n_params,n_tokens,loss\n1,1,1,9\n1,1,1,9\n", "rows have more cells than the header has names"),
            (b"n_params,n_tokens,loss, loss\n1,1,1,1\n", "has the column 'loss' twice"),
            (b'n_params,n_tokens,loss\n1,1,"1\n', "can't be read as csv"),
        ],
    )
    def test_what_is_no_table(self, tmp_path: Path, data: bytes, message: str) -> None:
        path = tmp_path / "runs.csv"
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            load_runs(path)
        assert "\n" not in str(caught.value)

    def test_a_folder_named_like_a_file(self, tmp_path: Path) -> None:
        for name in ("runs.csv", "runs.parquet"):
            (tmp_path / name).mkdir()
            with pytest.raises(UserError, match="is a folder, not a"):
                load_runs(tmp_path / name)
        with pytest.raises(UserError, match="does not exist"):
            load_runs(tmp_path / "none.csv")

    @pytest.mark.parametrize(
        ("header", "meant"),
        [
            ("N,tokens,val_loss", "N"),
            ("params,D,L", "params"),
            ("model_size,d_model,loss", "model_size"),
            ("Model Parameters,n_layers,loss", "Model Parameters"),
            ("n_parms,n_tokens,loss", "n_parms"),
        ],
    )
    def test_what_people_call_n(self, tmp_path: Path, header: str, meant: str) -> None:
        with pytest.raises(UserError, match=f"no column 'n_params'; the nearest is '{meant}'"):
            load_runs(csv(tmp_path, f"{header}\n1,1,1\n"))

    @pytest.mark.parametrize("name", ["D", "tokens", "training_tokens", "n_token", "total_tokens"])
    def test_what_people_call_d(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UserError, match=f"no column 'n_tokens'; the nearest is '{name}'"):
            load_runs(csv(tmp_path, f"n_params,seq_len,{name},loss\n1,1,1,1\n"))

    @pytest.mark.parametrize("name", ["L", "val_loss", "eval/loss", "final_validation_loss", "Loss"])
    def test_what_people_call_the_loss(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UserError, match=f"no column 'loss'; the nearest is '{name}'"):
            load_runs(csv(tmp_path, f"n_params,n_tokens,flops,{name}\n1,1,1,1\n"))

    def test_a_schedule_cut_short_has_no_final_loss(self, tmp_path: Path) -> None:
        text = "n_params,n_tokens,loss,planned_tokens\n1,990,3,1000\n1,989,3,1000\n1,5,3,\n"
        assert [(out.row, out.reason) for out in load_runs(csv(tmp_path, text)).excluded] == [
            (2, "mid-schedule: stopped at 989 of 1000 planned tokens, before its learning rate had decayed")
        ]

    def test_bits_become_nats_once(self, tmp_path: Path) -> None:
        text = "n_params,n_tokens,loss,loss_unit\n1,1,3,nats\n1,2,4,Bits\n1,3,2,\n1,4,20,perplexity\n"
        table = load_runs(csv(tmp_path, text))
        assert list(table.usable["loss"]) == [3, pytest.approx(4 * np.log(2)), 2]
        assert [out.reason for out in table.excluded] == ["unit: loss_unit is 'perplexity', neither nats nor bits"]
        assert table.warnings == (
            "the losses of 1 runs are in bits a token; they are read as nats, times ln 2",
            "1 of 4 runs state no unit of their loss; they are taken to be in nats",
        )
        table.frame.to_csv(tmp_path / "again.csv", index=False)
        assert list(load_runs(tmp_path / "again.csv").usable["loss"]) == pytest.approx(list(table.usable["loss"]))

    def test_perplexities_are_suspected(self, tmp_path: Path) -> None:
        table = load_runs(csv(tmp_path, "n_params,n_tokens,loss\n1,1,22.5\n1,2,19\n1,3,3\n"))
        assert table.warnings == (
            "2 losses are above 15, more nats a token than guessing costs: are they perplexities, or sums over tokens?",
        )

    @pytest.mark.parametrize(
        ("status", "kind"),
        [("diverged", "diverged"), ("crashed", "failed"), ("KILLED", "unfinished"), ("running", "unfinished")],
    )
    def test_how_a_run_ended_is_its_kind(self, tmp_path: Path, status: str, kind: str) -> None:
        text = f"n_params,n_tokens,loss,status\n1,1,,{status}\n1,1,1,FINISHED\n1,1,1,\n"
        table = load_runs(csv(tmp_path, text))
        assert [kind_of(out.reason) for out in table.excluded] == [kind]

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


_CELL = st.sampled_from(
    ["", "1", "2.5", "-1", "0", "1e400", "nan", "1,5", "1.4B", "true", "bits", "x", " 3 ", "finished"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), optional=st.sets(st.sampled_from([*COLUMNS, "bpb/code"]), max_size=8))
def test_any_table_is_read_or_refused_in_words(tmp_path: Path, data: st.DataObject, optional: set[str]) -> None:
    header = ["n_params", "n_tokens", "loss", *sorted(optional - {"n_params", "n_tokens", "loss"})]
    rows = data.draw(st.lists(st.lists(_CELL, min_size=len(header), max_size=len(header)), min_size=1, max_size=6))
    path = csv(tmp_path, "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in [header, *rows]))
    try:
        table = load_runs(path)
    except UserError:
        assert all(cell == "" for row in rows for cell in row)
        return
    assert list(table.frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    for name, dtype in COLUMNS.items():
        assert str(table.frame[name].dtype).removesuffix("[pyarrow]") in (dtype, "object")
    usable = table.usable
    numbers = usable[["n_params", "n_tokens", "loss", "weight"]].to_numpy()
    assert np.isfinite(numbers).all()
    assert (numbers > 0).all()
    assert (usable["n_tokens"] >= 0.99 * usable["planned_tokens"].fillna(0)).all()
    assert usable["run_id"].is_unique
    if "excluded" not in header:
        assert {kind_of(out.reason) for out in table.excluded} <= set(KINDS)


class TestWhere:
    TEXT = (
        "N,D,val,dataset,lr,held_out\n1e8,2e9,3.1,rpj,1e-3,True\n2e8,2e9,3.0,rpj,0.001,False\n"
        "3e8,9e10,2.9,c4,,false\n4e8,8e9,x,c4,5e-4,\n"
    )
    COLUMNS: ClassVar = {"n_params": "N", "n_tokens": "D", "loss": "val"}

    @pytest.mark.parametrize(
        ("where", "rows"),
        [
            (["dataset=rpj"], [1, 2]),
            (["dataset==rpj", "held_out=true"], [1]),
            (["dataset != rpj"], [3, 4]),
            (["lr=1e-3"], [1, 2]),
            (["lr!=0.001"], [3, 4]),
            (["lr<1e-3"], [4]),
            (["N>=2e8", "N<4e8"], [2, 3]),
            (["n_params>2e8"], [3, 4]),
            (["tokens_per_param<=20"], [1, 2, 4]),
            (["dataset>=1", "N=1e8"], None),
            ([], [1, 2, 3, 4]),
        ],
    )
    def test_conditions_keep_row_numbers(self, tmp_path: Path, where: list[str], rows: list[int] | None) -> None:
        path = csv(tmp_path, self.TEXT)
        if rows is None:
            with pytest.raises(UserError, match="no run of"):
                load_runs(path, columns=self.COLUMNS, where=where)
            return
        table = load_runs(path, columns=self.COLUMNS, where=where)
        assert list(table.frame["row"]) == rows
        assert list(table.frame["run_id"]) == [f"row-{row}" for row in rows]

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("datset=rpj", r"names 'datset', which runs\.csv has not; the nearest is 'dataset'"),
            ("dataset=rp", r"no run of runs\.csv meets 'dataset=rp': dataset is 'rpj' or 'c4'"),
            ("lr>1", r"meets 'lr>1': lr is between 0\.0005 and 0\.001"),
            ("lr", "is no condition: write a column"),
            ("=3", "is no condition"),
            ("lr<fast", "compares with 'fast', which is not a number"),
        ],
    )
    def test_what_selects_nothing_says_what_there_is(self, tmp_path: Path, where: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_runs(csv(tmp_path, self.TEXT), columns=self.COLUMNS, where=[where])

    def test_a_sweeps_columns_are_the_tables(self, sweep: SyntheticSweep) -> None:
        whole = load_runs(sweep.folder)
        table = load_runs(sweep.folder, where=["d_model<=24", "seed=0", "tokens_per_param>1"])
        assert 0 < len(table.frame) < len(whole.frame)
        assert set(table.frame["d_model"]) == {16, 24}
        assert table.source == "sweep synthetic where d_model<=24 and seed=0 and tokens_per_param>1"
        assert set(table.inference) == set(table.frame["run_id"])
        with pytest.raises(UserError, match=r"names 'dmodel'.*the nearest is 'd_model'"):
            load_runs(sweep.folder, where=["dmodel=16"])

    @settings(max_examples=40, deadline=None)
    @given(
        numbers=st.lists(st.integers(-3, 3) | st.none(), min_size=1, max_size=8),
        sign=st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        value=st.integers(-3, 3),
    )
    def test_a_condition_and_its_opposite_share_the_rows(
        self, numbers: list[int | None], sign: str, value: int
    ) -> None:
        values = pd.Series(["" if number is None else str(number) for number in numbers], dtype="str")

        def meets(sign: str) -> set[int]:
            try:
                met = rows_that_meet([f"x{sign}{value}"], len(values), column=lambda _: values, names=list, source="s")
            except UserError:
                return set()
            return set(np.flatnonzero(met))

        opposite = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", "<=": ">", ">": "<="}[sign]
        given_rows = {i for i, number in enumerate(numbers) if number is not None}
        assert meets(sign) & meets(opposite) == set()
        assert given_rows <= meets(sign) | meets(opposite)


class TestKeep:
    TEXT = (
        "n_params,n_tokens,loss,run_id,status,planned_tokens\n1,100,3,good,,100\n1,50,3,short,,100\n"
        "2,100,3,lost,diverged,\n2,100,,gone,diverged,\n3,100,3,good,,\n4,100,x,bad,,\n"
    )

    def test_by_run_row_and_kind(self, tmp_path: Path) -> None:
        path = csv(tmp_path, self.TEXT)
        assert list(load_runs(path).usable["run_id"]) == ["good"]
        for name, run_id in (
            ("short", "short"),
            ("2", "short"),
            ("mid-schedule", "short"),
            ("lost", "lost"),
            ("3", "lost"),
        ):
            table = load_runs(path, keep=[name])
            assert list(table.usable["run_id"]) == ["good", run_id]
            (said,) = table.warnings
            assert said.startswith(f"{run_id} is in use in spite of its exclusion (")

    def test_a_second_run_of_one_id_gets_its_row(self, tmp_path: Path) -> None:
        table = load_runs(csv(tmp_path, self.TEXT), keep=["duplicate", "short"])
        assert list(table.usable["run_id"]) == ["good", "short", "good (row 5)"]
        assert table.frame["run_id"].is_unique
        assert len(table.warnings) == 2

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("gone", r"gone can't be kept: it has no loss that a fit can use \(diverged\)"),
            ("diverged", "gone can't be kept: .* of the 2 runs meant, keep those that have it"),
            ("bad", "bad can't be kept: it has no loss"),
            ("shrt", "nothing to keep is called 'shrt'; the nearest is 'short'"),
            ("diverge", "the nearest is 'diverged'"),
            ("7", "nothing to keep is called '7'"),
            (
                "failed",
                "no run that is left out is failed: the kinds of those left out are diverged, duplicate, invalid, mid-",
            ),
            ("", "nothing to keep is called ''"),
        ],
    )
    def test_what_can_not_be_kept(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_runs(csv(tmp_path, self.TEXT), keep=[name])

    def test_a_run_in_use_is_kept_without_a_word(self, tmp_path: Path) -> None:
        assert load_runs(csv(tmp_path, "n_params,n_tokens,loss\n1,1,1\n"), keep=["1"]).warnings == ()

    def test_another_attempt_at_a_failed_run_is_no_duplicate(self, tmp_path: Path) -> None:
        text = "n_params,n_tokens,loss,run_id,status\n1,1,,a,failed\n1,1,3,a,finished\n1,1,3,a,finished\n"
        table = load_runs(csv(tmp_path, text))
        assert list(table.usable["row"]) == [2]
        assert table.excluded[1].reason == "duplicate: the same run id as row 2"

    def test_runs_off_the_best_rate(self, tmp_path: Path) -> None:
        text = "n_params,n_tokens,loss,peak_lr\n1,1,3.0,0.1\n1,1,3.2,0.2\n1,1,3.4,0.4\n"
        path = csv(tmp_path, text)
        assert list(load_runs(path).at_the_best_rate().usable["row"]) == [1]
        assert list(load_runs(path, keep=["2"]).at_the_best_rate().usable["row"]) == [1, 2]
        kept = load_runs(path, keep=["off-rate"])
        assert len(kept.at_the_best_rate().usable) == 3
        assert kept.warnings == ("2 runs are in use in spite of their exclusion as off-rate: row-2, row-3",)

    def test_a_sweeps_runs_by_name(self, tmp_path: Path) -> None:
        made = write_sweep(tmp_path, diverged=1)
        with pytest.raises(UserError, match="diverged-0 can't be kept: it has no loss"):
            load_runs(made.folder, keep=["diverged-0"])


def test_a_run_that_is_not_finished_can_be_forecast(tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    whole = load_runs(made.folder).frame.set_index("run_id")
    key = next(run.key for run in made.index.runs if not run.is_trunk)
    (tmp_path / "runs" / key / DONE).unlink()
    row = load_runs(made.folder).frame.set_index("run_id").loc[key]
    for name in ("n_params", "n_params_matmul", "n_tokens", "planned_tokens", "flops", "flops_budget"):
        assert row[name] == whole.loc[key, name] > 0
    assert np.isnan(row["loss"])


def test_a_sweep_knows_what_it_repeats(tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    assert load_runs(made.folder).frame["unique_tokens"].isna().all()
    folder = tmp_path / made.index.corpus_folder
    folder.mkdir(parents=True)
    # 10,241 tokens make 80 windows of 128; the other domain holds more than any run takes of it.
    write_record(folder / MANIFEST, _manifest("c" * 64, {"code": 10_241, "prose": 10**9}))
    frame = load_runs(made.folder).usable
    repeats = frame["n_tokens"] > 2 * 10_240
    assert repeats.any()
    assert frame.loc[~repeats, "unique_tokens"].isna().all()
    np.testing.assert_allclose(
        frame.loc[repeats, "unique_tokens"], 0.5 * frame.loc[repeats, "n_tokens"] + 10_240, rtol=1e-9
    )
    # Another corpus in its place says nothing.
    write_record(folder / MANIFEST, _manifest("d" * 64, {"code": 10_241, "prose": 10**9}))
    assert load_runs(made.folder).frame["unique_tokens"].isna().all()
    # What the runs themselves noted needs no corpus.
    noted = write_sweep(tmp_path / "noted", train_tokens={"code": 10_241, "prose": 10**9})
    pd.testing.assert_series_equal(load_runs(noted.folder).usable["unique_tokens"], frame["unique_tokens"])


def _manifest(digest: str, train_tokens: dict[str, int]) -> CorpusManifest:
    domains = {
        name: DomainManifest(
            origin="made",
            train_documents=1,
            validation_documents=1,
            train_bytes=1,
            validation_bytes=1,
            train_tokens=tokens,
            validation_tokens=1,
            duplicates=0,
            near_duplicates=0,
            skipped={},
            tokenizer_sample_bytes=1,
            held_out_grams=1,
            held_out_grams_in_training=0,
            train_sha256="",
            validation_sha256="",
        )
        for name, tokens in train_tokens.items()
    }
    spec = CorpusSpec(domains={name: DomainSpec(weight=1, stdlib="code") for name in train_tokens})
    return CorpusManifest(
        format_version=2,
        digest=digest,
        input_digest="",
        vocab_size=512,
        tokenizer_sha256="",
        tokenizer_sample_sha256="",
        spec=spec,
        domains=domains,
    )


def test_ten_thousand_rows_read_as_a_few(tmp_path: Path) -> None:
    numbers = np.arange(1, 10_001)
    frame = pd.DataFrame(
        {"n_params": numbers * 1e6, "n_tokens": numbers * 1e7, "loss": 2 + 1 / numbers, "seed": numbers}
    )
    frame.loc[[17, 9_000], "loss"] = np.nan
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_parquet(tmp_path / "runs.parquet")
    tables = [load_runs(tmp_path / name).frame for name in ("runs.csv", "runs.parquet")]
    pd.testing.assert_frame_equal(*tables)
    usable = tables[0][tables[0]["excluded"] == ""]
    np.testing.assert_array_equal(usable["loss"], frame["loss"].dropna())
    np.testing.assert_array_equal(usable["row"], numbers[frame["loss"].notna()])


def test_a_damaged_journal_names_its_line(tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    key = next(run.key for run in made.index.runs if not run.is_trunk)
    whole = {curve.run_id: curve for curve in load_curves(made.folder)}
    path = tmp_path / "runs" / key / JOURNAL
    text = path.read_bytes()
    # A last line cut short is what a crash leaves.
    path.write_bytes(text[:-20])
    cut = {curve.run_id: curve for curve in load_curves(made.folder)}[key]
    np.testing.assert_array_equal(cut.train_loss_G, whole[key].train_loss_G[:-1])
    path.write_bytes(b"{}\n" + text)
    with pytest.raises(UserError, match=r"metrics\.jsonl line 1 is not a journal point"):
        load_curves(made.folder)
    path.write_bytes(text)
    (path.parent / CONFIG).write_text("{", encoding="utf-8")
    assert {curve.run_id for curve in load_curves(made.folder)} == set(whole) - {key}


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


def test_parquet_without_its_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"n_params": [1.0], "n_tokens": [1.0], "loss": [3.0]}).to_parquet(tmp_path / "runs.parquet")
    for module in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="Parquet needs pyarrow, which is not installed"):
        load_runs(tmp_path / "runs.parquet")


def test_what_was_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    rows = "".join(f"{name},{n},1,{loss}\n" for name, n, loss in [("a", 1, 3), ("a", 2, 3), ("a", 3, 3), ("b", 4, "")])
    table = load_runs(csv(tmp_path, "run_id,n_params,n_tokens,loss\n" + rows))
    assert table.left_out_words() == "3 of 4 runs are left out: 2 duplicate, 1 missing"
    assert table.keep(["2", "3"]).left_out_words() == "1 of 4 runs is left out: 1 missing"
    assert load_runs(csv(tmp_path, "n_params,n_tokens,loss\n1,1,1\n")).left_out_words() == ""


def test_a_table_written_out_reads_back(sweep: SyntheticSweep, tmp_path: Path) -> None:
    table = load_runs(sweep.folder)
    table.frame.to_csv(tmp_path / "runs.csv", index=False)
    again: RunTable = load_runs(tmp_path / "runs.csv")
    columns = [name for name in table.frame.columns if name != "row"]
    pd.testing.assert_frame_equal(again.frame[columns], table.frame[columns], check_exact=False)
