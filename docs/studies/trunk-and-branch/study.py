"""The study "Do branches off a trunk stand for runs of their own?": tables and picture from runs.csv beside this file.

    python docs/studies/trunk-and-branch/study.py [--storage isoloss-data]

prints the tables of ../trunk-and-branch.md and writes differences.csv and differences.png. With --storage the sweeps of the
YAMLs in this folder are read first, from where they were launched, and runs.csv is written anew.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from analysis import RunTable, fit, load_runs
from analysis.plots import canvas, style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points
from analysis.results import Array

HERE = Path(__file__).parent
SWEEPS = {
    "trunk-and-branch": "trunk",
    "wsd-scratch-1m": "wsd",
    "wsd-scratch-2m": "wsd",
    "wsd-scratch-4m": "wsd",
    "cosine": "cosine",
    "cosine-to-zero": "cosine-to-zero",
}
ARMS = {"trunk": "branches off a trunk", "wsd": "WSD from scratch", "cosine": "cosine from scratch"}
BASELINE = "wsd"
COLUMNS = ["run_id", "group", "seed", "d_model", "n_params", "n_tokens", "flops", "peak_lr", "loss", "bpb"]
CELL = ["d_model", "n_tokens"]
BUDGETS = {999_936: "1M", 1_999_872: "2M", 3_999_744: "4M"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Do branches off a trunk stand for runs of their own?")
    parser.add_argument("--storage", type=Path, help="where the sweeps were launched: writes runs.csv anew")
    storage = parser.parse_args().storage
    if storage:
        collect(storage).to_csv(HERE / "runs.csv", index=False)
    runs = pd.read_csv(HERE / "runs.csv", keep_default_na=False)
    pairs = differences(runs)
    pairs.to_csv(HERE / "differences.csv", index=False, float_format="%.5f")
    (HERE / "differences.png").write_bytes(canvas.png(picture(runs, pairs)))
    for title, lines in (
        ("Losses", losses(runs, pairs)),
        ("Sd between seeds", noise(runs, pairs)),
        ("Differences over the sizes", pooled(pairs)),
        ("Cosine to zero", cosine_to_zero(runs)),
        ("Slopes in tokens", slopes(runs)),
        ("Tokens trained", trained(runs)),
        ("Laws", laws()),
        ("Exponents' differences", exponents_differ()),
    ):
        print(f"\n{title}\n\n" + "\n".join(lines))


def collect(storage: Path) -> pd.DataFrame:
    """Every finished run of the sweeps, with the tokens at which it left its trunk."""
    tables = []
    for sweep, arm in SWEEPS.items():
        frame = load_runs(storage / "sweeps" / sweep).finished[COLUMNS]
        configs = [json.loads((storage / "runs" / key / "config.json").read_text()) for key in frame["run_id"]]
        batches = [config["recipe"]["batch_sequences"] * config["model"]["context_length"] for config in configs]
        forks = [(config["fork_step"] or 0) * batch for config, batch in zip(configs, batches, strict=True)]
        tables.append(frame.assign(arm=arm, fork_tokens=forks))
    runs = pd.concat(tables)
    return runs[["arm", *runs.columns.drop("arm")]]


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Loss against WSD from scratch, a row a pair of one size, budget and seed: nats, and percent as 100 ln of the ratio."""
    wide = runs[runs["arm"].isin(ARMS)].pivot(index=[*CELL, "n_params", "seed"], columns="arm", values="loss")
    parts = [
        pd.DataFrame(
            {"arm": arm, "nats": wide[arm] - wide[BASELINE], "percent": 100 * np.log(wide[arm] / wide[BASELINE])}
        )
        for arm in ARMS
        if arm != BASELINE
    ]
    return pd.concat(parts).reset_index()


def losses(runs: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[str]:
    """Mean and sd of each cell, and the arms' differences with Student's interval of their three pairs."""
    others = [arm for arm in ARMS if arm != BASELINE]
    yield "| width | tokens | " + " | ".join([*ARMS.values(), *(f"{ARMS[arm]}, difference" for arm in others)]) + " |"
    yield "|---" * (2 + len(ARMS) + len(others)) + "|"
    for (width, tokens), cell in runs.groupby(CELL):
        found = [cell.loc[cell["arm"] == arm, "loss"] for arm in ARMS]
        figures = [f"{loss.mean():.3f} ± {loss.std(ddof=1):.3f}" for loss in found]
        for arm in others:
            is_cell = (pairs["arm"] == arm) & (pairs["d_model"] == width) & (pairs["n_tokens"] == tokens)
            figures.append(percent(pairs[is_cell]))
        yield f"| {width} | {BUDGETS[tokens]} | " + " | ".join(figures) + " |"


def noise_percent(runs: pd.DataFrame, arm: str) -> float:
    """Sd of log loss between the seeds of a cell, pooled over an arm's cells, in percent."""
    of_arm = runs[runs["arm"] == arm]
    return 100 * math.sqrt(np.log(of_arm["loss"]).groupby([of_arm[name] for name in CELL]).var(ddof=1).mean())


def shared_noise(runs: pd.DataFrame, arm: str) -> float:
    """Correlation, between two budgets of one size and seed, of how far log loss lies from its cell's mean."""
    of_arm = runs[runs["arm"] == arm]
    log_loss = np.log(of_arm["loss"])
    off = log_loss - log_loss.groupby([of_arm[name] for name in CELL]).transform("mean")
    off_GB = of_arm.assign(off=off).pivot(index=["d_model", "seed"], columns="n_tokens", values="off").to_numpy()
    products_BB = off_GB.T @ off_GB
    n_budgets = len(BUDGETS)
    between = (products_BB.sum() - np.trace(products_BB)) / (n_budgets * (n_budgets - 1))
    return float(between / (np.trace(products_BB) / n_budgets))


def noise(runs: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[str]:
    for arm, words in ARMS.items():
        yield (
            f"{words}: single runs {noise_percent(runs, arm):.2f} %, correlation between the budgets of a size and seed "
            f"{shared_noise(runs, arm):.2f}"
        )
    for arm, of_arm in with_different_runs(pairs).groupby("arm", sort=False):
        sd = math.sqrt(of_arm.groupby(CELL)["percent"].var(ddof=1).mean())
        above = (of_arm["percent"] > 0).sum()
        yield f"{ARMS[str(arm)]} less {ARMS[BASELINE]}: pairs {sd:.2f} %; {above} of {len(of_arm)} above zero"


def with_different_runs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Without the pairs that are one run twice: a branch at the trunk's own horizon."""
    return pairs[pairs["percent"] != 0]


def over_cells(pairs: pd.DataFrame) -> tuple[float, float]:
    """Mean of all pairs in percent and half its 95 % interval (Student), from the spread of pairs within cells alone."""
    cells = pairs.groupby(CELL)["percent"]
    degrees = len(pairs) - cells.ngroups
    error = math.sqrt(cells.var(ddof=1).mean() / len(pairs))
    return float(pairs["percent"].mean()), float(student_t.ppf(0.975, degrees)) * error


def percent(pairs: pd.DataFrame) -> str:
    pairs = with_different_runs(pairs)
    return "{:+.2f} % ± {:.2f}".format(*over_cells(pairs)) if len(pairs) else "the same runs"


def pooled(pairs: pd.DataFrame) -> Iterator[str]:
    yield "| | " + " | ".join([*BUDGETS.values(), "all"]) + " |"
    yield "|---" * (2 + len(BUDGETS)) + "|"
    for arm, of_arm in pairs.groupby("arm", sort=False):
        parts = [of_arm[of_arm["n_tokens"] == tokens] for tokens in BUDGETS] + [of_arm]
        yield f"| {ARMS[str(arm)]} | " + " | ".join(map(percent, parts)) + " |"


def cosine_to_zero(runs: pd.DataFrame) -> Iterator[str]:
    """At the smallest budget, against WSD from scratch: cosine as it comes, and down to zero at one and two times the rate."""
    runs = runs[runs["n_tokens"] == min(BUDGETS)].set_index(["d_model", "seed"])
    base = runs[runs["arm"] == BASELINE]
    tried = runs[runs["arm"].isin(["cosine", "cosine-to-zero"])]
    times = (tried["peak_lr"] / base["peak_lr"].reindex(tried.index)).round(2)
    tried = tried.assign(times=times, percent=100 * np.log(tried["loss"] / base["loss"].reindex(tried.index)))
    widths = base.index.unique("d_model")
    yield "| ends at | times the rate | " + " | ".join(f"width {width}" for width in widths) + " | all |"
    yield "|---" * (3 + len(widths)) + "|"
    for (arm, multiple), group in tried.reset_index().groupby(["arm", "times"]):
        figures = [f"{cell['percent'].mean():+.2f} %" for _, cell in group.groupby("d_model")]
        end = "10 % of the peak" if arm == "cosine" else "0"
        yield f"| {end} | {multiple:g} | " + " | ".join([*figures, percent(group)]) + " |"


def slopes(runs: pd.DataFrame) -> Iterator[str]:
    """By how much the loss falls from the smallest budget to the largest, no law asked."""
    low, high = min(BUDGETS), max(BUDGETS)
    yield "| width | " + " | ".join(ARMS.values()) + " |"
    yield "|---" * (1 + len(ARMS)) + "|"
    for width, size in runs.groupby("d_model"):
        mean = size.groupby(["arm", "n_tokens"])["loss"].mean()
        yield f"| {width} | " + " | ".join(f"{mean[arm, low] - mean[arm, high]:.3f}" for arm in ARMS) + " |"


def trained(runs: pd.DataFrame) -> Iterator[str]:
    """Tokens and FLOPs that were trained for the same 27 points."""
    of_trunk = runs[runs["arm"] == "trunk"]
    per_token = of_trunk["flops"] / of_trunk["n_tokens"]
    trunks = of_trunk.assign(trunk_flops=of_trunk["fork_tokens"] * per_token)
    cooldown = of_trunk["n_tokens"] - of_trunk["fork_tokens"]
    tokens = trunks.groupby("group")["fork_tokens"].max().sum() + cooldown.sum()
    flops = trunks.groupby("group")["trunk_flops"].max().sum() + (cooldown * per_token).sum()
    for arm in ("wsd", "cosine"):
        alone = runs[runs["arm"] == arm]
        yield (
            f"{ARMS[arm]}: {alone['n_tokens'].sum():,.0f} tokens, {alone['flops'].sum():.3e} FLOPs; branches off a trunk: "
            f"{tokens:,.0f} tokens, {flops:.3e} FLOPs; ratio {alone['n_tokens'].sum() / tokens:.3f}, "
            f"{alone['flops'].sum() / flops:.3f} in FLOPs"
        )


def laws() -> Iterator[str]:
    """Each arm's 27 runs fitted alone."""
    yield "| arm | E | alpha | beta | N* ~ C^ | residual sd |"
    yield "|---" * 6 + "|"
    for arm in ARMS:
        found = fit(table_of(arm))
        assert found.ci95 is not None
        assert found.exponents.ci95 is not None
        intervals = {**found.ci95, **found.exponents.ci95}
        values = {**found.params, "n_opt": found.exponents.n_opt}
        figures = [
            f"{values[name]:.3f} ({intervals[name].lo:.3f} to {intervals[name].hi:.3f})"
            for name in ("E", "alpha", "beta", "n_opt")
        ]
        yield (f"| {ARMS[arm]} | " + " | ".join(figures) + f" | {100 * found.residual_sd:.2f} % |")


def table_of(arm: str) -> RunTable:
    return load_runs(HERE / "runs.csv", where=[f"arm={arm}"])


def exponents_differ() -> Iterator[str]:
    """Each arm's exponents less the baseline's: 95 % by a jackknife that leaves a (size, seed) out of both arms."""
    tables = {arm: table_of(arm) for arm in ARMS}
    cells = size_seed_pairs(tables[BASELINE])
    yield "| | alpha | beta | N* ~ C^ |"
    yield "|---|---|---|---|"
    for arm in ARMS:
        if arm == BASELINE:
            continue
        whole = exponents(tables[arm]) - exponents(tables[BASELINE])
        left_out_K3 = np.array(
            [exponents(without(tables[arm], cell)) - exponents(without(tables[BASELINE], cell)) for cell in cells]
        )
        # Seeds are drawn within sizes: the strata of a stratified jackknife.
        sizes = np.array([size for size, _ in cells])
        variance_3 = np.zeros(3)
        for size in set(sizes):
            of_size = left_out_K3[sizes == size]
            n = len(of_size)
            variance_3 += (n - 1) / n * ((of_size - of_size.mean(axis=0)) ** 2).sum(axis=0)
        half_3 = student_t.ppf(0.975, len(cells) - len(set(sizes))) * np.sqrt(variance_3)
        figures = [f"{value:+.3f} ± {half:.3f}" for value, half in zip(whole, half_3, strict=True)]
        yield f"| {ARMS[arm]} | " + " | ".join(figures) + " |"


def exponents(table: RunTable) -> Array:
    """alpha, beta and that of N* in compute, without intervals."""
    found = fit(table, bootstrap=0)
    return np.array([found.params["alpha"], found.params["beta"], found.exponents.n_opt])


def size_seed_pairs(table: RunTable) -> list[tuple[float, int]]:
    return sorted(set(zip(table.frame["n_params"], table.frame["seed"], strict=True)))


def without(table: RunTable, cell: tuple[float, int]) -> RunTable:
    size, seed = cell
    frame = table.frame
    return replace(table, frame=frame[(frame["n_params"] != size) | (frame["seed"] != seed)].reset_index(drop=True))


def picture(runs: pd.DataFrame, pairs: pd.DataFrame) -> Picture:
    """A panel an arm: each pair's difference over tokens, by size, and the mean over all with its interval."""
    noise_sd = noise_percent(runs, BASELINE)
    colours = style.size_colours(pairs["n_params"].unique())
    limits = (0.8 * min(BUDGETS), 1.3 * max(BUDGETS))
    bounds = style.padded(pairs["percent"].min(), pairs["percent"].max(), log=False)
    panels = []
    for arm in ARMS:
        if arm == BASELINE:
            continue
        of_arm = pairs[pairs["arm"] == arm]
        edge = pd.DataFrame({"n_tokens": limits, "percent": 0.0, "low": -noise_sd, "high": noise_sd})
        layers: list[Layer] = [
            Band(table=edge, series="noise", colour=style.GREY, legend="sd between seeds of one run", opacity=0.15)
        ]
        for place, (n_params, size) in enumerate(of_arm.groupby("n_params")):
            name = f"{style.format_number(float(n_params), 'count')}"
            shifted = size.assign(n_tokens=size["n_tokens"] * 1.045 ** (place - 1.9))
            layers.append(Points(table=shifted, series=name, colour=colours[float(n_params)], legend=name, size=4.5))
        summary = []
        for tokens in BUDGETS:
            mean, half = over_cells(of_arm[of_arm["n_tokens"] == tokens])
            summary.append({"n_tokens": tokens * 1.11, "percent": mean, "low": mean - half, "high": mean + half})
        table = pd.DataFrame(summary)
        layers.append(Line(table=table[["n_tokens", "percent"]], series="mean", colour=style.ACCENT, width=1.0))
        layers.append(
            Points(table=table, series="mean", colour=style.ACCENT, legend="mean, 95 %", marker="diamond", size=5.5)
        )
        panels.append(
            Panel(
                x=Axis(
                    column="n_tokens", label="training tokens D", unit="count", limits=limits, ticks=(1e6, 2e6, 4e6)
                ),
                y=Axis(
                    column="percent", label="loss over WSD from scratch (%)", unit="plain", log=False, limits=bounds
                ),
                layers=layers,
                title=ARMS[arm],
                zero_line=True,
            )
        )
    return Picture(
        stem="differences",
        title="Loss against WSD from scratch at the same size, tokens and seed",
        caption="Dots: pairs of runs of one seed, 100 ln of the ratio of their validation losses. Diamonds: means over the "
        "three sizes, with 95 % intervals from the spread of pairs within cells.",
        panels=panels,
        legend_title="parameters N",
    )


if __name__ == "__main__":
    main()
