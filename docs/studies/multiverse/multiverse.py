"""The study "One table, many answers": every combination of reasonable choices, on three published tables.

    python docs/studies/multiverse/multiverse.py --besiroglu svg_extracted_data.csv \\
        --sardana sardana2024.csv --gadre gadre2024.csv

writes multiverse.csv and multiverse.png beside this file and prints the tables of ../multiverse.md. It needs only `analysis`.
With --tables FOLDER it also writes the runs there as `isoloss` reads them: besiroglu.csv, besiroglu240.csv, gadre.csv.
The tables are public and are not in this repository; ../multiverse.md says where they are.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import RunTable, fit, load_runs
from analysis.counting import convert
from analysis.decisions.costs import flops_costs, training_flops
from analysis.decisions.search import cheapest, least_loss
from analysis.laws import get_law
from analysis.plots.style import format_number
from llama.errors import UserError

#: What of a table is read and written for the command. FLOPs are not: every choice here counts 6 N D, N all parameters.
COLUMNS = ["name", "n_params", "n_params_non_embedding", "n_tokens", "loss"]
OBJECTIVES = ("huber_log", "lad_log", "lsq_log", "lsq")
COLOURS = dict(zip(OBJECTIVES, ("#0072b2", "#56b4e9", "#e69f00", "#d55e00"), strict=True))
#: Besiroglu et al. leave these five out: the highest losses of their table.
HIGHEST_LEFT_OUT = 5


@dataclass(frozen=True, kw_only=True)
class Question:
    """A table, the budget at which its decision is asked for, and the choices that differ."""

    name: str
    title: str
    flops: float
    demand_tokens: float
    rows: dict[str, RunTable]
    """Which runs: by the choice's words."""
    countings: tuple[str, ...] = ("n_params",)
    laws: tuple[str, ...] = ("chinchilla",)


def main() -> None:
    parser = argparse.ArgumentParser(description="One table, many answers.")
    parser.add_argument("--besiroglu", type=Path, required=True)
    parser.add_argument("--sardana", type=Path, required=True)
    parser.add_argument("--gadre", type=Path, required=True)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tables", type=Path, help="also write the runs there, as the command reads them")
    arguments = parser.parse_args()
    asked = [besiroglu(arguments.besiroglu), sardana(arguments.sardana), gadre(arguments.gadre)]
    if arguments.tables:
        arguments.tables.mkdir(parents=True, exist_ok=True)
        for name, table in (
            ("besiroglu", asked[0].rows["all"]),
            ("besiroglu240", asked[0].rows["less five, as published"]),
            ("gadre", asked[2].rows["all"]),
        ):
            known = table.frame[COLUMNS].dropna(axis="columns", how="all")
            known.to_csv(arguments.tables / f"{name}.csv", index=False)
    answers = pd.DataFrame([row for question in asked for row in answer(question, arguments.bootstrap)])
    answers.to_csv(arguments.out / "multiverse.csv", index=False, float_format="%.6g")
    draw(asked, answers, arguments.out / "multiverse.png")
    for question in asked:
        print(f"\n{question.title}\n\n{as_markdown(answers[answers['table'] == question.name])}")
    print(f"\nSardana et al.'s longer runs, predicted from the shorter\n\n{longer_runs(load_runs(arguments.sardana))}")


def besiroglu(path: Path) -> Question:
    """245 points read off Hoffmann et al.'s figure 4; D is C / (6 N)."""
    raw = pd.read_csv(path)
    columns = pd.DataFrame(
        {
            "n_params": raw["Model Size"],
            "n_tokens": raw["Training FLOP"] / (6 * raw["Model Size"]),
            "loss": raw["loss"],
        }
    ).dropna()
    table = as_table(columns, path.name)
    highest = columns["loss"].sort_values().iloc[-HIGHEST_LEFT_OUT]
    authors = subset(table, (table.frame["loss"] < highest).to_numpy())
    return Question(
        name="besiroglu",
        title="Hoffmann et al.'s runs as read off their figure, at 1e24 FLOPs",
        flops=1e24,
        demand_tokens=1e13,
        rows={"all": table, "less five, as published": authors, "5-sd rule": dropped_by_rule(table)},
        laws=("chinchilla", "skaling"),
    )


def sardana(path: Path) -> Question:
    table = load_runs(path)
    ratio = (table.frame["n_tokens"] / table.frame["n_params"]).round().to_numpy()
    return Question(
        name="sardana",
        title="Sardana et al.'s 47 runs, at 1e22 FLOPs",
        flops=1e22,
        demand_tokens=1e12,
        rows={f"D/N ≤ {up_to:,}": subset(table, ratio <= up_to) for up_to in (100, 500, 10_000)},
        laws=("chinchilla", "skaling"),
    )


def gadre(path: Path) -> Question:
    table = load_runs(path, columns={"loss": "loss_c4_val", "n_params_non_embedding": "n_params_no_embed"})
    return Question(
        name="gadre",
        title="Gadre et al.'s 35 RedPajama runs, at 1e22 FLOPs",
        flops=1e22,
        demand_tokens=1e12,
        rows={"all": subset(table, table.frame["name"].str.startswith("rpj").to_numpy())},
        countings=("n_params", "n_params_non_embedding"),
        laws=("chinchilla", "overtraining", "skaling"),
    )


def longer_runs(table: RunTable) -> str:
    """Each law fitted up to a ratio of tokens to parameters, and how far it misses the runs beyond."""
    ratio = (table.frame["n_tokens"] / table.frame["n_params"]).round()
    lines = ["| fitted up to | runs beyond | law | mean error | largest |", "|---|---|---|---|---|"]
    for up_to, law in itertools.product((100, 250, 500), ("chinchilla", "overtraining", "skaling")):
        found = fit(replace(table, frame=table.frame.assign(held_out=ratio > up_to)), law=law, bootstrap=0)
        assert found.held_out is not None
        error = found.held_out
        lines.append(
            f"| {up_to} | {error.n} | {law} | {error.mean_abs_rel_error:.1%} | {error.max_abs_rel_error:.1%} |"
        )
    return "\n".join(lines)


def as_table(columns: pd.DataFrame, source: str) -> RunTable:
    """A frame of three columns or more, by the same reading as a CSV."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        columns.to_csv(path, index=False)
        return replace(load_runs(path), source=source)


def subset(table: RunTable, chosen: Any) -> RunTable:
    return replace(table, frame=table.frame[chosen].assign(flops=np.nan))


def dropped_by_rule(table: RunTable) -> RunTable:
    """Without the runs that isoloss itself would drop under its default objective."""
    found = fit(table, bootstrap=0, drop_outliers=True)
    gone = {run.run_id for run in found.dropped}
    return subset(table, ~table.frame["run_id"].isin(gone).to_numpy())


def answer(question: Question, bootstrap: int) -> Iterator[dict[str, Any]]:
    for (rows, table), counting, law_name, objective in itertools.product(
        question.rows.items(), question.countings, question.laws, OBJECTIVES
    ):
        row: dict[str, Any] = {
            "table": question.name,
            "runs": rows,
            "counting": counting,
            "law": law_name,
            "objective": objective,
        }
        try:
            found = fit(table, law=law_name, objective=objective, counting=counting, bootstrap=bootstrap)
        except UserError as reason:
            yield row | {"refused": str(reason)}
            continue
        law, costs = get_law(law_name), flops_costs(training_flops(table, counting=counting))
        params_KP = np.concatenate([[law.as_vector(found.params)], np.atleast_2d(found.draws_KP)])
        n_K, d_K = least_loss(law, params_KP, costs, question.flops, 0.0)
        loss_K = law.predict(params_KP, n_K, d_K)
        own_n_K, own_d_K = cheapest(law, params_KP, costs, loss_K, question.demand_tokens)
        n_K, own_n_K = (in_total(table, counting, value) for value in (n_K, own_n_K))
        row |= {"n_runs": found.n_runs, "limit": float(law.limit(params_KP[0])), "loss": loss_K[0]}
        for name, value_K in (("n", n_K), ("d", d_K), ("n_owned", own_n_K), ("d_owned", own_d_K)):
            lo, hi = np.nanquantile(value_K[1:], [0.025, 0.975], method="nearest")
            row |= {name: value_K[0], f"{name}_lo": lo, f"{name}_hi": hi}
        yield row


def in_total(table: RunTable, counting: str, n_params: Any) -> Any:
    """N as the count of all parameters, whatever the fit counts."""
    return convert(table, n_params, counting, "n_params").value


def as_markdown(answers: pd.DataFrame) -> str:
    """N* with its interval, then the size that is cheapest to own, by objective; a row for each of the other choices."""
    lines = ["| runs | N counts | law | " + " | ".join(OBJECTIVES) + " |", "|---" * (3 + len(OBJECTIVES)) + "|"]
    for (rows, counting, law), cells in answers.groupby(["runs", "counting", "law"], sort=False):
        by_objective = cells.set_index("objective")
        figures = [cell(by_objective.loc[objective]) for objective in OBJECTIVES]
        lines.append(f"| {rows} ({cells['n_runs'].iloc[0]:.0f}) | {counting} | {law} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def cell(row: pd.Series) -> str:
    if isinstance(row.get("refused"), str):
        return "refused"
    return f"**{billions(row['n'])}** ({billions(row['n_lo'])} to {billions(row['n_hi'])}); {billions(row['n_owned'])}"


def billions(n_params: float) -> str:
    return format_number(n_params, "count")


def draw(asked: list[Question], answers: pd.DataFrame, path: Path) -> None:
    """A row a choice, a dot an objective, with its 95 % interval; N on one log axis a table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    groups = [
        answers[answers["table"] == question.name].groupby(["runs", "counting", "law"], sort=False)
        for question in asked
    ]
    heights = [len(group) for group in groups]
    figure = Figure(figsize=(7.2, 1.1 + 0.42 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(asked), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, question, group in zip(axes, asked, groups, strict=True):
        labels = []
        for place, ((rows, counting, law), cells) in enumerate(group):
            several = [rows] if len(question.rows) > 1 else []
            several += [
                counting.removeprefix("n_params_").replace("n_params", "all").replace("_", "-") + " parameters"
            ] * (len(question.countings) > 1)
            several += [law] * (len(question.laws) > 1)
            labels.append(", ".join(several))
            for offset, (_, row) in zip((-0.27, -0.09, 0.09, 0.27), cells.iterrows(), strict=True):
                if pd.isna(row.get("n")):
                    continue
                colour = COLOURS[str(row["objective"])]
                axis.plot([row["n_lo"], row["n_hi"]], [place + offset] * 2, color=colour, linewidth=1.2, alpha=0.6)
                axis.plot(row["n"], place + offset, "o", color=colour, markersize=4.5)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: format_number(value, "count"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(question.title, fontsize=9, loc="left")
        axis.grid(axis="x", color="#e3e3e3", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(
        "compute-optimal size N*, all parameters; bars are 95 % intervals of 1,000 resamples", fontsize=8
    )
    handles = [axes[0].plot([], [], "o", color=colour, label=name)[0] for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
