"""`RunTable`: one tidy row a run, whoever trained it, and `LossCurve`: loss against tokens along one run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from analysis.results import Array, Excluded
from llama.errors import UserError

if TYPE_CHECKING:
    from llama.records import InferenceCost

#: Counting rules of N that a table may hold; `n_params` is always there.
COUNTING = ("n_params", "n_params_non_embedding", "n_params_matmul")

#: Every column, with its dtype. Floats are NaN and strings are "" where a source does not know the value.
COLUMNS: dict[str, str] = {
    "run_id": "str",  # the run's key, or the CSV's run_id, or row-<number>
    "name": "str",  # short and readable
    "group": "str",  # runs that share randomness: the trunk's key; "" where nothing groups them
    "design": "str",  # cell of the design: runs that differ in nothing but their seed; "" where unknown
    "seed": "Int64",
    "n_params": "float64",
    "n_params_non_embedding": "float64",
    "n_params_matmul": "float64",
    "n_tokens": "float64",
    "planned_tokens": "float64",  # what the schedule was planned for; NaN: n_tokens
    "unique_tokens": "float64",  # distinct tokens that the training drew on; NaN: nothing repeats
    "skipped_updates": "float64",  # updates left out as spikes, a branch's trunk's included; NaN where none may be
    "flops": "float64",  # training FLOPs since step 0, a branch's trunk included
    "flops_budget": "float64",  # the declared budget, by which isoFLOP bowls group
    "loss": "float64",  # final validation loss, nats a token
    "loss_unit": "str",  # nats where the source stated a unit (a loss in bits was converted), "" where it stated none
    "bpb": "float64",  # bits a UTF-8 byte over all domains
    "task_error": "float64",  # downstream error over tasks, a share from 0 to 1
    "task_accuracy": "float64",  # downstream accuracy, a share from 0 to 1
    "task_loss": "float64",  # loss on the tasks' own answers, nats a token; NaN: `loss` stands for it
    "held_out": "bool",  # kept out of fits, to be predicted
    "weight": "float64",  # weight in the objective
    "status": "str",  # finished, diverged, failed, started or absent
    "excluded": "str",  # why the run is left out, as `kind: words`; "" for a usable one
    "row": "Int64",  # row number in a file, from 1 below the header
    "training_seconds": "float64",  # of the whole training at the run's own tokens a second, a branch's trunk included
    "tokens_per_second": "float64",  # training, over the run's own steps
    "training_threads": "float64",  # cores that trained it; 1 where a source doesn't say
    "gpu_share": "float64",  # GPUs that trained it, or the share of one; 0 on a CPU
    "decode_tokens_per_second": "float64",  # at the batch where decoding saturates
    "prefill_tokens_per_second": "float64",  # at that batch
    "saturation_batch": "Int64",
    "decode_tokens_per_second_batch_1": "float64",
    "ttft_seconds": "float64",  # median at batch 1
    "tpot_seconds": "float64",  # median at batch 1
    "d_model": "Int64",
    "n_layers": "Int64",
    "peak_lr": "float64",  # the recipe's learning rate at its highest
    "mlflow_url": "str",
}

#: Numbers that a source may leave unsaid.
UNSAID = {"weight": 1.0, "training_threads": 1.0, "gpu_share": 0.0}
#: Columns that every run in use has.
REQUIRED = ("n_params", "n_tokens", "loss")
#: What an exclusion's reason begins with, before its colon. Runs are kept in spite of it by run or by kind.
KINDS = (
    "diverged",
    "failed",
    "unfinished",
    "unstarted",
    "mid-schedule",
    "off-rate",
    "duplicate",
    "missing",
    "invalid",
    "unit",
    "unreadable",
)
#: A run that trained less than this share of its planned tokens was stopped before its learning rate had decayed.
WHOLE_SCHEDULE = 0.99
NAMED = 5

_UNSAID: dict[str, Any] = {"str": "", "Int64": pd.NA, "float64": np.nan, "bool": False}


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """One run's journal: a trunk, a branch (its cooldown alone) or a run that stands alone."""

    run_id: str
    name: str
    kind: Literal["trunk", "branch", "run"]
    trunk: str | None
    """run_id of the trunk that a branch leaves."""
    n_params: float
    train_tokens_G: Array
    train_loss_G: Array
    val_tokens_G: Array
    val_loss_G: Array
    """Validation points are fewer: at checkpoints and at the end."""


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """Runs of one study.

    `frame` has exactly the columns of `COLUMNS`, then `bpb/<domain>` columns (float64) where domains are known. Excluded runs
    stay in it with their reason; `usable` leaves them out.
    """

    source: str
    """Where the runs were read, for captions and messages."""
    frame: pd.DataFrame
    inference: dict[str, InferenceCost] = field(default_factory=dict)
    """Measured inference cost by run_id, where there is one."""
    warnings: tuple[str, ...] = ()
    off_rate: frozenset[str] = frozenset()
    """run_ids of finished runs that `at_the_best_rate` left out."""
    kept: frozenset[str] = frozenset()
    """run_ids that stay in use whatever would leave them out."""

    @property
    def usable(self) -> pd.DataFrame:
        """Finished runs with every number a fit needs, held-out ones too."""
        return self.frame[self.frame["excluded"] == ""]

    @property
    def finished(self) -> pd.DataFrame:
        """Usable runs, and those left out for their learning rate alone."""
        return self.frame[(self.frame["excluded"] == "") | self.frame["run_id"].isin(self.off_rate)]

    @property
    def fitted(self) -> pd.DataFrame:
        """Usable runs less the held-out ones."""
        usable = self.usable
        return usable[~usable["held_out"]]

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        left_out = self.frame[self.frame["excluded"] != ""]
        return tuple(
            Excluded(row=None if pd.isna(row) else int(row), run_id=str(run_id), reason=str(reason))
            for row, run_id, reason in zip(left_out["row"], left_out["run_id"], left_out["excluded"], strict=True)
        )

    def left_out_words(self) -> str:
        """How many runs are left out, by kind: `20 of 30 runs are left out: 17 duplicate, 3 missing`; "" where none is."""
        kinds = self.frame.loc[self.frame["excluded"] != "", "excluded"].map(kind_of).value_counts()
        if not len(kinds):
            return ""
        by_kind = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        verb = "is" if kinds.sum() == 1 else "are"
        return f"{kinds.sum()} of {len(self.frame)} runs {verb} left out: {by_kind}"

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains with a bits-a-byte column."""
        return tuple(name.removeprefix("bpb/") for name in self.frame.columns if str(name).startswith("bpb/"))

    def at_the_best_rate(self) -> RunTable:
        """This table with a shape and length that was trained at several `peak_lr` kept at the best of them, by mean loss.

        A learning-rate study's other runs say what a bad rate costs, nothing about N and D. A run that was kept by name, or
        by the kind `off-rate`, stays.
        """
        runs = self.usable.dropna(subset=["peak_lr"])
        worse: dict[Any, str] = {}
        shape = ["n_params", "d_model", "n_layers", "n_tokens"]
        several = runs.groupby(shape, dropna=False)["peak_lr"].transform("nunique") > 1
        for _, cell in runs[several].groupby(shape, dropna=False):
            mean_loss = cell.groupby("peak_lr")["loss"].mean()
            best = float(mean_loss.index[int(mean_loss.argmin())])
            others = cell.loc[(cell["peak_lr"] != best) & ~cell["run_id"].isin(self.kept), "peak_lr"]
            for index, rate in zip(others.index, others.to_numpy(dtype=np.float64), strict=True):
                worse[index] = f"off-rate: trained at {rate / best:.3g}x the best learning rate of its size and length"
        if not worse:
            return self
        frame = self.frame.copy()
        frame.loc[list(worse), "excluded"] = list(worse.values())
        left_out = frozenset(map(str, frame.loc[list(worse), "run_id"]))
        return replace(self, frame=frame, off_rate=self.off_rate | left_out)

    def keep(self, names: Iterable[str]) -> RunTable:
        """This table with runs put back into use in spite of their exclusion, each said in a warning.

        A name is a run's id, its name, its row number in a file, or a kind of exclusion (`KINDS`). A second run of one id
        gets its row as well: `a` in row 7 becomes `a (row 7)`.

        Raises:
            UserError: a name matches nothing, or a run that lacks N, D or loss.
        """
        table = self
        for name in names:
            table = table._keep(name.strip())
        return table

    def _keep(self, name: str) -> RunTable:
        # Which learning rate is best is known only now that all runs are there.
        judged = self.at_the_best_rate().frame
        chosen = (judged["run_id"] == name) | (judged["name"] == name)
        if not chosen.any() and name.isdecimal():
            chosen = (judged["row"] == int(name)).fillna(False).astype(bool)
        if not chosen.any():
            chosen = (judged["excluded"] != "") & (judged["excluded"].map(kind_of) == name)
        if not chosen.any():
            raise UserError(_nothing_to_keep(name, judged))
        excluded = judged[chosen & (judged["excluded"] != "")]
        _require_numbers(excluded)
        frame = self.frame.copy()
        frame.loc[excluded.index, "excluded"] = ""
        of_one_id = judged.loc[judged["run_id"].duplicated(), "run_id"]
        again = excluded[excluded["run_id"].isin(of_one_id)]
        frame.loc[again.index, "run_id"] = again["run_id"] + " (row " + again["row"].astype("str") + ")"
        kept = frozenset(map(str, frame.loc[chosen, "run_id"]))
        table = replace(self, frame=frame, kept=self.kept | kept, off_rate=self.off_rate - kept)
        return table.with_warning(_kept(excluded)) if len(excluded) else table

    def with_warning(self, text: str) -> RunTable:
        return replace(self, warnings=(*self.warnings, text))


def kind_of(reason: str) -> str:
    """The kind of exclusion that a reason begins with."""
    return reason.partition(":")[0]


def _require_numbers(excluded: pd.DataFrame) -> None:
    """Refuse to use runs without the numbers that a fit needs."""
    values = excluded[list(REQUIRED)].to_numpy(dtype=np.float64)
    usable = (values > 0) & (values < np.inf)
    for name, reason, has in zip(excluded["name"], excluded["excluded"], usable, strict=True):
        lacks = " and no ".join(each for each, there in zip(REQUIRED, has, strict=True) if not there)
        if lacks:
            others = f"; of the {len(excluded)} runs meant, keep those that have it" if len(excluded) > 1 else ""
            raise UserError(f"{name} can't be kept: it has no {lacks} that a fit can use ({reason}){others}")


def _nothing_to_keep(name: str, frame: pd.DataFrame) -> str:
    there = sorted({kind_of(reason) for reason in frame["excluded"]} - {""})
    if name in KINDS:
        found = f"the kinds of those left out are {', '.join(there)}" if there else "every run is in use"
        return f"no run that is left out is {name}: {found}"
    runs = list(dict.fromkeys([*frame["run_id"], *frame["name"]]))
    near = difflib.get_close_matches(name, [*there, *KINDS, *runs], n=1, cutoff=0.4)
    hint = f"the nearest is {near[0]!r}" if near else f"name a run's id, name or row, or a kind: {', '.join(KINDS)}"
    return f"nothing to keep is called {name!r}; {hint}"


def _kept(excluded: pd.DataFrame) -> str:
    if len(excluded) == 1:
        return f"{excluded['name'].iloc[0]} is in use in spite of its exclusion ({excluded['excluded'].iloc[0]})"
    some = ", ".join(excluded["name"][:NAMED]) + (" ..." if len(excluded) > NAMED else "")
    kinds = " or ".join(dict.fromkeys(map(kind_of, excluded["excluded"])))
    return f"{len(excluded)} runs are in use in spite of their exclusion as {kinds}: {some}"


def make_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with every column of `COLUMNS` in order and type, whatever keys the rows have; `bpb/<domain>` keys follow."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return frame_of({key: [row.get(key) for row in rows] for key in keys}, len(rows))


def frame_of(columns: Mapping[str, Any], n_rows: int) -> pd.DataFrame:
    """A frame as `make_frame` gives, of whole columns: lists, or arrays of the column's dtype. None and NaN are unsaid."""
    extra = sorted(name for name in columns if name.startswith("bpb/"))
    data: dict[str, Any] = {}
    for name, dtype in {**COLUMNS, **dict.fromkeys(extra, "float64")}.items():
        unsaid: Any = UNSAID.get(name, _UNSAID[dtype])
        values = columns.get(name)
        if values is None:
            data[name] = pd.Series([unsaid] * n_rows, dtype=dtype)
        elif dtype == "float64":
            numbers = np.array(values, dtype=np.float64)  # None becomes NaN
            data[name] = np.where(np.isnan(numbers), unsaid, numbers) if name in UNSAID else numbers
        elif isinstance(values, list):
            data[name] = pd.Series([unsaid if value is None else value for value in values], dtype=dtype)
        else:
            data[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(data)
