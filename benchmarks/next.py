"""How soon chosen runs predict large ones: `python -m benchmarks.next` replays public tables run by run.

Of each table the three dearest runs are held out, one after another the target, and never candidates. All policies start from
the same cheapest runs that identify the law, then reveal runs until 10 % and 25 % of the candidates' whole cost is spent, and
the law (chinchilla, Huber) is fitted to what they have:

- `next`: at each of the two sums one set by `analysis.next` for the target's loss: `isoloss next --narrow loss --spend ...`. It
  knows of the runs it has and their losses, of the candidates N, D and cost, and of the target N and D.
- `random`: a run at random of those that what is left can pay, again and again until it can pay none; the median and quartiles
  of its errors over many draws.
- `cheapest`: the cheapest of those.
- `all`: every candidate, at 100 % of the cost.

Errors: |predicted / measured - 1| of the target's loss, and |ln N*| beside the fit of all candidates, N* at the target's FLOPs.
Tables: the folder that `ISOLOSS_PUBLISHED_RUNS` or the first argument names, else ../shared/runs; absent ones are said to be.
One JSON document; some minutes on one core.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import load_runs
from analysis.decisions.costs import training_flops
from analysis.fitting.fit import fit
from analysis.fitting.information import relative_gradient
from analysis.fitting.known_noise import noise_of
from analysis.fitting.run_noise import DesignRuns
from analysis.laws import get_law
from analysis.next.best_sets import best_within
from analysis.next.narrowing import Goal, Narrowing
from analysis.next.suggest import resamples
from analysis.optima.optimum import compute_optimum
from analysis.results import Array, Fit
from analysis.runs.table import RunTable
from llama.errors import UserError

LAW = "chinchilla"
SHARES = (0.1, 0.25)
HELD_OUT = 3
RANDOM_DRAWS = 30
BOOTSTRAP = 60
#: file, where, column of the loss
TABLES = (
    ("gadre2024.csv", "dataset=c4_original", "loss_c4_val"),
    ("gadre2024.csv", "dataset=rpj", "loss_c4_val"),
    ("gadre2024.csv", "dataset=rw_original", "loss_c4_val"),
    ("sardana2024.csv", "tokens_per_param<=100", "loss"),
    ("sardana2024.csv", "tokens_per_param<=10000", "loss"),
)

Rows = list[int]
Chooser = Callable[[Rows, float], Rows]
"""What a policy makes next, of the rows it has and the cost it may still spend."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Candidates of a table by cost, and the runs that are to be predicted."""

    table: RunTable
    cost_m: Array
    targets: RunTable
    seed: Rows
    all_runs: Fit

    def only(self, rows: Rows) -> RunTable:
        return replace(self.table, frame=self.table.frame.iloc[sorted(rows)])

    def fit(self, rows: Rows, bootstrap: int = 0) -> Fit | None:
        """None where these rows can't identify the law."""
        try:
            return fit(self.only(rows), law=LAW, bootstrap=bootstrap)
        except UserError:
            return None

    def open(self, have: Rows, budget: float) -> Rows:
        return [row for row in range(len(self.cost_m)) if row not in have and self.cost_m[row] <= budget]


def pools(folder: Path) -> Iterator[tuple[str, Pool | str]]:
    """By table, its runs, or why they are not there."""
    for file, where, loss in TABLES:
        name = f"{file.removesuffix('.csv')} {where}"
        if not (folder / file).is_file():
            yield name, f"{folder / file} is not here"
            continue
        table = load_runs(folder / file, columns={"loss": loss}, where=[where])
        runs = table.usable.sort_values("flops", kind="stable")
        candidates = replace(table, frame=runs.iloc[:-HELD_OUT])
        cost = runs["flops"].to_numpy(dtype=np.float64)[:-HELD_OUT]
        pool = Pool(
            table=candidates,
            cost_m=cost,
            targets=replace(table, frame=runs.iloc[-HELD_OUT:]),
            seed=[],
            all_runs=fit(candidates, law=LAW, bootstrap=0),
        )
        seed = next(list(range(k)) for k in range(6, len(cost)) if pool.fit(list(range(k))) is not None)
        yield name, replace(pool, seed=seed)


def spend(pool: Pool, choose: Chooser) -> list[Rows]:
    """The rows that a policy has at each share of the cost."""
    have, stages = list(pool.seed), []
    for share in SHARES:
        while True:
            left = share * float(pool.cost_m.sum()) - float(pool.cost_m[have].sum())
            if not pool.open(have, left):
                break
            chosen = choose(have, left)
            if not chosen:
                break
            have += chosen
        stages.append(list(have))
    return stages


def cheapest(pool: Pool) -> Chooser:
    return lambda have, left: pool.open(have, left)[:1]


def at_random(pool: Pool, rng: np.random.Generator) -> Chooser:
    return lambda have, left: [int(rng.choice(pool.open(have, left)))]


def narrowing(pool: Pool, target: int) -> Chooser:
    """The set that narrows the loss of one held-out run most, within what is left; nothing more where it leaves some."""
    law = get_law(LAW)
    place = _runs_of(pool.targets, [target])
    known: list[Fit] = []

    def choose(have: Rows, left: float) -> Rows:
        fitted = pool.fit(have, BOOTSTRAP)
        # A set more of runs may blur the law past its bound: the fit before judges on.
        known.extend([fitted] if fitted is not None else [])
        params_KP = resamples(known[-1], law)
        rows = pool.open(have, left)
        with np.errstate(all="ignore"):
            gradient_KP = relative_gradient(
                lambda params: {"loss": np.log(law.predict(params, place.n_params_n[0], place.n_tokens_n[0]))},
                params_KP,
            )["loss"]
        sound = np.isfinite(gradient_KP).all(-1)
        offer = Narrowing(
            law=law,
            params_KP=params_KP[sound],
            made=_runs_of(pool.table, sorted(have)),
            candidates=_runs_of(pool.table, rows),
            noise=noise_of(pool.only(have), known[-1])[0],
        )
        chosen = best_within(offer, Goal(gradient_KP=gradient_KP[sound], place=place), pool.cost_m[rows], left)
        return [rows[k] for k in chosen]

    return choose


def _runs_of(table: RunTable, rows: Rows) -> DesignRuns:
    frame = table.frame.iloc[rows]
    return DesignRuns(
        n_params_n=frame["n_params"].to_numpy(dtype=np.float64),
        n_tokens_n=frame["n_tokens"].to_numpy(dtype=np.float64),
        trunk_n=np.full(len(rows), "", dtype=np.str_),
        scale_n=np.ones(len(rows)),
        unique_tokens_n=np.full(len(rows), np.inf),
    )


def errors(pool: Pool, fitted: Fit | None) -> Array:
    """(targets, 2): of the predicted loss, and of ln N* at the target's FLOPs; NaN where the rows identify no law."""
    frame, law = pool.targets.frame, get_law(LAW)
    if fitted is None:
        return np.full((len(frame), 2), np.nan)
    n, d, loss, flops = (frame[c].to_numpy(dtype=np.float64) for c in ("n_params", "n_tokens", "loss", "flops"))
    cost = training_flops(pool.table)
    here, all_runs = (law.as_vector(found.params) for found in (fitted, pool.all_runs))
    optima = [compute_optimum(law, params, flops, cost)[0] for params in (here, all_runs)]
    return np.stack([np.abs(law.predict(here, n, d) / loss - 1), np.abs(np.log(optima[0] / optima[1]))], axis=-1)


def replay(pool: Pool) -> dict[str, NDArray[np.float64]]:
    """Errors by policy: (shares, targets, 2), random with a leading axis of draws, all without one of shares."""
    aimed = [spend(pool, narrowing(pool, target)) for target in range(HELD_OUT)]
    chosen = np.array([[errors(pool, pool.fit(aimed[t][s]))[t] for t in range(HELD_OUT)] for s in range(len(SHARES))])
    by_cost = np.array([errors(pool, pool.fit(rows)) for rows in spend(pool, cheapest(pool))])
    rng = np.random.default_rng(0)
    drawn = np.array(
        [[errors(pool, pool.fit(rows)) for rows in spend(pool, at_random(pool, rng))] for _ in range(RANDOM_DRAWS)]
    )
    return {"next": chosen, "random": drawn, "cheapest": by_cost, "all": errors(pool, pool.all_runs)}


def summary(found: dict[str, NDArray[np.float64]], kind: int) -> dict[str, object]:
    """Means over the targets, in per cent of the loss or in units of ln N*; random by its quartiles over draws."""
    scale = (100.0, 1.0)[kind]

    def rounded(value: float) -> float | None:
        return float(f"{scale * value:.3g}") if np.isfinite(value) else None

    document: dict[str, object] = {"all": rounded(float(found["all"][:, kind].mean()))}
    for s, share in enumerate(SHARES):
        drawn = found["random"][:, s, :, kind].mean(-1)
        quartiles = np.nanquantile(drawn, (0.25, 0.5, 0.75))
        document[f"{share:.0%}"] = {
            "next": rounded(float(found["next"][s, :, kind].mean())),
            "cheapest": rounded(float(found["cheapest"][s, :, kind].mean())),
            "random_median": rounded(float(quartiles[1])),
            "random_quartiles": [rounded(float(quartiles[0])), rounded(float(quartiles[2]))],
            "next_beats_of_random_draws": float(f"{np.nanmean(found['next'][s, :, kind].mean() < drawn):.2g}"),
        }
    return document


def main() -> None:
    beside = Path(__file__).parents[2] / "shared" / "runs"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ISOLOSS_PUBLISHED_RUNS") or beside)
    tables: dict[str, object] = {}
    every: list[dict[str, NDArray[np.float64]]] = []
    start = time.process_time()
    for name, pool in pools(folder):
        if isinstance(pool, str):
            tables[name] = {"absent": pool}
            continue
        found = replay(pool)
        every.append(found)
        tables[name] = {
            "candidates": len(pool.cost_m),
            "seed_runs": len(pool.seed),
            "seed_share_of_cost": float(f"{pool.cost_m[pool.seed].sum() / pool.cost_m.sum():.2g}"),
            "loss_error_percent": summary(found, 0),
            "log_n_opt_error": summary(found, 1),
        }
    whole: dict[str, object] = {}
    if every:
        joined = {
            policy: np.concatenate([found[policy] for found in every], axis=-2)
            for policy in ("next", "random", "cheapest", "all")
        }
        whole = {"loss_error_percent": summary(joined, 0), "log_n_opt_error": summary(joined, 1)}
    print(
        json.dumps(
            {
                "law": LAW,
                "held_out_a_table": HELD_OUT,
                "random_draws": RANDOM_DRAWS,
                "tables": tables,
                "over_all_tables": whole,
                "cpu_seconds": round(time.process_time() - start, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
