"""Designs with a known truth: what people run, and random ones, each with the noise that its runs would have.

A study is a law, the runs, and how their noise hangs together. `simulate` draws one, and nothing but the design's name and
the replicate's number decides it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.fitting.design import identifies
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.laws.base import Array
from analysis.runs.table import RunTable, make_frame
from benchmarks.truth import BESIROGLU, HOFFMANN, PILOT
from llama.errors import UserError

LAW = "chinchilla"
#: Tokens a parameter of branches along a trunk.
WSD_RATIOS = np.geomspace(10, 160, 5)
#: Smallest size that each law is tried at.
SMALLEST = ((BESIROGLU, 4e7), (HOFFMANN, 4e7), (PILOT, 2.3e4))
#: Random designs with a larger condition number at the truth are drawn again: noise could tip the fit into a refusal.
SOUND_CONDITION = 1_000.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs to make, the law behind them and the noise of their log losses."""

    truth: dict[str, float]
    n_params: Array
    n_tokens: Array
    sd: Array
    """Of each run's log loss."""
    trunk: tuple[str, ...] = ()
    """What each run shares noise with; empty where all are independent."""
    shared: float = 0.0
    """Share of the variance that the runs of one trunk have in common."""
    grouped: bool = False
    """Whether the table says which trunk a run belongs to."""
    outliers: float = 0.0
    """Share of runs whose noise is ten times as large."""


def simulate(design: str, replicate: int) -> tuple[Study, RunTable]:
    """The study of this design and number, and the table of its runs."""
    if design not in DESIGNS:
        raise UserError(f"no design is called {design!r}; there are {', '.join(DESIGNS)}")
    rng = np.random.default_rng([zlib.crc32(design.encode()), replicate])
    study = DESIGNS[design](rng)
    runs = len(study.n_params)
    noise = rng.standard_normal(runs)
    if study.shared:
        names, member = np.unique(study.trunk, return_inverse=True)
        noise = np.sqrt(1 - study.shared) * noise + np.sqrt(study.shared) * rng.standard_normal(len(names))[member]
    noise = np.where(rng.random(runs) < study.outliers, 10.0, 1.0) * noise
    law = get_law(LAW)
    loss = law.predict(law.as_vector(study.truth), study.n_params, study.n_tokens) * np.exp(study.sd * noise)
    cells = [f"{n:.0f}-{d:.0f}" for n, d in zip(study.n_params, study.n_tokens, strict=True)]
    table = _table(study.n_params, study.n_tokens, loss, study.trunk, cells) if study.grouped else None
    return study, table or _table(study.n_params, study.n_tokens, loss)


def _table(
    n_params_n: Array, n_tokens_n: Array, loss_n: Array, trunks: Sequence[str] = (), cells: Sequence[str] = ()
) -> RunTable:
    rows = [
        {
            "run_id": f"run-{i}",
            "name": f"run-{i}",
            "n_params": float(n_params_n[i]),
            "n_tokens": float(n_tokens_n[i]),
            "loss": float(loss_n[i]),
            "group": trunks[i] if trunks else "",
            "design": cells[i] if cells else "",
            "status": "finished",
        }
        for i in range(len(loss_n))
    ]
    return RunTable(source="simulated runs", frame=make_frame(rows))


def _near(
    published: dict[str, float], n_params_n: Array, n_tokens_n: Array, rng: np.random.Generator
) -> dict[str, float]:
    """A law with exponents within 15 % of a published one's, E within 10 %, and terms within 30 % in the runs' middle."""
    factor = dict(zip(("E", "alpha", "beta", "A", "B"), np.exp(rng.uniform(-1, 1, 5)), strict=True))
    alpha, beta = (published[name] * factor[name] ** 0.14 for name in ("alpha", "beta"))
    n, d = (float(np.exp(np.log(x).mean())) for x in (n_params_n, n_tokens_n))
    return {
        "A": published["A"] * n ** (alpha - published["alpha"]) * factor["A"] ** 0.26,
        "B": published["B"] * d ** (beta - published["beta"]) * factor["B"] ** 0.26,
        "E": published["E"] * factor["E"] ** 0.1,
        "alpha": alpha,
        "beta": beta,
    }


def _budgets(
    sizes: Array, budgets: Array, lowest: float, highest: float, *, seeds: Callable[[int, int], int] = lambda i, j: 1
) -> tuple[Array, Array, tuple[str, ...]]:
    """N, D and trunk of every size at every budget whose D/N is within bounds; `seeds` by the size's and budget's number."""
    runs = []
    for i, n in enumerate(sizes):
        for j, flops in enumerate(budgets):
            tokens = flops / (6 * n)
            if lowest <= tokens / n <= highest:
                runs += [(round(n), round(tokens), f"{n:.0f}-s{seed}") for seed in range(seeds(i, j))]
    n_params, n_tokens, trunks = zip(*runs, strict=True)
    return np.array(n_params, dtype=float), np.array(n_tokens, dtype=float), trunks


def _ratios(
    sizes: Array, ratios: Array, *, seeds: Callable[[int, int], int] = lambda i, j: 1
) -> tuple[Array, Array, tuple[str, ...]]:
    """N, D and trunk of every size at every ratio D/N."""
    runs = [
        (round(n), round(n * ratio), f"{n:.0f}-s{seed}")
        for i, n in enumerate(sizes)
        for j, ratio in enumerate(ratios)
        for seed in range(seeds(i, j))
    ]
    n_params, n_tokens, trunks = zip(*runs, strict=True)
    return np.array(n_params, dtype=float), np.array(n_tokens, dtype=float), trunks


def _always(seeds: int, i: int, j: int) -> int:
    return seeds


def isoflop(rng: np.random.Generator) -> Study:
    """Five budgets over fourteen sizes, 4 to 320 tokens a parameter, single runs of 0.5 % noise (as Hoffmann et al. 2022)."""
    n, d, _ = _budgets(np.geomspace(6e7, 1.2e10, 14), np.geomspace(1e19, 1e22, 5), 4, 320)
    return Study(truth=BESIROGLU, n_params=n, n_tokens=d, sd=np.full(len(n), 0.005))


def ladder(rng: np.random.Generator) -> Study:
    """Six sizes at five ratios from 10 to 160 tokens a parameter, 0.3 % noise, nothing shared."""
    n, d, _ = _ratios(np.geomspace(2e7, 1e9, 6), np.geomspace(10, 160, 5))
    return Study(truth=HOFFMANN, n_params=n, n_tokens=d, sd=np.full(len(n), 0.003))


def _wsd(sizes: int, seeds: int = 1) -> Study:
    """Trunks with five branches, half of the variance of 0.5 % noise shared along a trunk."""
    n, d, trunk = _ratios(np.geomspace(5e7, 3e9, sizes), WSD_RATIOS, seeds=partial(_always, seeds))
    return Study(
        truth=BESIROGLU, n_params=n, n_tokens=d, sd=np.full(len(n), 0.005), trunk=trunk, shared=0.5, grouped=True
    )


def wsd_5(rng: np.random.Generator) -> Study:
    """Five sizes, one trunk each with branches at five budgets."""
    return _wsd(5)


def wsd_6(rng: np.random.Generator) -> Study:
    """Six sizes, one trunk each with branches at five budgets."""
    return _wsd(6)


def wsd_8(rng: np.random.Generator) -> Study:
    """Eight sizes, one trunk each with branches at five budgets: just enough groups to resample them."""
    return _wsd(8)


def wsd_seeds(rng: np.random.Generator) -> Study:
    """Six sizes in three seeds each, five branches a trunk: eighteen trunks."""
    return _wsd(6, seeds=3)


def quickstart(rng: np.random.Generator) -> Study:
    """Six tiny sizes at five shared budgets, three seeds at the two smallest where budgets are small, 1 % noise."""
    sizes = np.array([2.3e4, 3.9e4, 7.3e4, 1.32e5, 2.67e5, 4.0e5])
    n, d, trunk = _budgets(sizes, np.geomspace(1e11, 1.6e12, 5), 3, 400, seeds=lambda i, j: 3 if i < 2 and j < 2 else 1)
    return Study(truth=PILOT, n_params=n, n_tokens=d, sd=np.full(len(n), 0.01), trunk=trunk, shared=0.5, grouped=True)


def noise_floor(rng: np.random.Generator) -> Study:
    """Seven sizes, branches along trunks; noise falls as N^-1/2 from 1.5 % to a floor of 0.2 %; three seeds at two sizes."""
    sizes = np.geomspace(1e6, 1e9, 7)
    n, d, trunk = _ratios(sizes, WSD_RATIOS, seeds=lambda i, j: 3 if i < 2 else 1)
    sd = np.hypot(0.002, 0.015 * (n / sizes[0]) ** -0.5)
    return Study(truth=HOFFMANN, n_params=n, n_tokens=d, sd=sd, trunk=trunk, shared=0.5, grouped=True)


def ceiling(rng: np.random.Generator) -> Study:
    """Five sizes up to a ceiling that the large budgets' optimum lies above: six budgets, two seeds below half the ceiling."""
    sizes = np.geomspace(3e7, 5e8, 5)
    n, d, trunk = _budgets(sizes, np.geomspace(1e18, 1e21, 6), 8, 1500, seeds=lambda i, j: 2 if i < 3 else 1)
    return Study(
        truth=BESIROGLU, n_params=n, n_tokens=d, sd=np.full(len(n), 0.004), trunk=trunk, shared=0.5, grouped=True
    )


def wsd_5_shared(rng: np.random.Generator) -> Study:
    """`wsd_5` with nine tenths of the variance shared along a trunk: five trunks can hardly show it."""
    return replace(_wsd(5), shared=0.9)


def floor_6(rng: np.random.Generator) -> Study:
    """`wsd_6` with noise that falls as N^-1/2 from 1 % to a floor of 0.2 %, and no repeated seed that would show it."""
    study = _wsd(6)
    return replace(study, sd=np.hypot(0.002, 0.01 * (study.n_params / study.n_params.min()) ** -0.5))


def outliers(rng: np.random.Generator) -> Study:
    """Sixty runs over sizes and ratios as on a public figure, 0.5 % noise, 3 % of runs with ten times that."""
    n = np.exp(rng.uniform(np.log(5e7), np.log(1e10), 60)).round()
    d = (n * np.exp(rng.uniform(np.log(4), np.log(300), 60))).round()
    return Study(truth=BESIROGLU, n_params=n, n_tokens=d, sd=np.full(60, 0.005), outliers=0.03)


def random_design(rng: np.random.Generator) -> Study:
    """4 to 9 sizes over a factor of 8 to 300, a span within 5 to 300 tokens a parameter, 0.2 to 2 % noise; by budgets or by
    ratios; half of them in trunks (one or two seeds) that share 0 to 80 % of the variance; a law near a published one."""
    law = get_law(LAW)
    while True:
        published, smallest = SMALLEST[rng.integers(len(SMALLEST))]
        sizes = np.geomspace(1, np.exp(rng.uniform(np.log(8), np.log(300))), rng.integers(4, 10))
        sizes = smallest * np.exp(rng.uniform(0, np.log(4))) * sizes
        span = np.exp(rng.uniform(np.log(8), np.log(60)))
        lowest = np.exp(rng.uniform(np.log(5), np.log(300 / span)))
        columns = int(rng.integers(3, 7))
        in_trunks = rng.random() < 0.5
        by_seed = partial(_always, 2 if in_trunks and rng.random() < 0.4 else 1)
        if rng.random() < 0.5:
            middle = 6 * sizes**2 * lowest * np.sqrt(span)
            budgets = np.geomspace(middle[0], middle[-1], columns)
            n, d, trunk = _budgets(sizes, budgets, lowest, lowest * span, seeds=by_seed)
        else:
            n, d, trunk = _ratios(sizes, np.geomspace(lowest, lowest * span, columns), seeds=by_seed)
        truth = _near(published, n, d, rng)
        if len(n) < 12 or not identifies(n, d):
            continue
        # The design decides, not the noise: nothing is selected on what the losses turn out to be.
        try:
            exact = fit(_table(n, d, law.predict(law.as_vector(truth), n, d)), law=LAW, bootstrap=0)
        except UserError:
            continue
        if exact.convergence.condition_number > SOUND_CONDITION:
            continue
        sd = np.full(len(n), np.exp(rng.uniform(np.log(0.002), np.log(0.02))))
        shared = rng.uniform(0, 0.8) if in_trunks else 0.0
        return Study(truth=truth, n_params=n, n_tokens=d, sd=sd, trunk=trunk, shared=shared, grouped=in_trunks)


#: By name; `random` last.
DESIGNS: dict[str, Callable[[np.random.Generator], Study]] = {
    design.__name__.removesuffix("_design"): design
    for design in (
        isoflop,
        ladder,
        wsd_5,
        wsd_6,
        wsd_8,
        wsd_seeds,
        quickstart,
        noise_floor,
        ceiling,
        wsd_5_shared,
        floor_6,
        outliers,
        random_design,
    )
}
