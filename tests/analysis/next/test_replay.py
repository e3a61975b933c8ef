"""The replay of public tables, `benchmarks/next.py`, tells its policy nothing of runs that it has not revealed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.fitting.run_noise import RunNoise
from analysis.laws.base import Array
from analysis.next.best_sets import best_within
from analysis.next.narrowing import Goal, Narrowing
from benchmarks.next import LAW, Pool, narrowing
from tests.analysis.tables import BESIROGLU, make_table, predict


def test_losses_of_unrevealed_runs_change_nothing_that_a_choice_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what seeds of one cell differ by: wild seeds among the unrevealed runs, the same noise and the same set."""
    noises: list[RunNoise] = []

    def noted(offer: Narrowing, goal: Goal, cost_m: Array, spend: float) -> object:
        noises.append(offer.noise)
        return best_within(offer, goal, cost_m, spend)

    monkeypatch.setattr("benchmarks.next.best_within", noted)
    n, r = (x.ravel() for x in np.meshgrid(np.geomspace(3e7, 1e9, 5).round(), [5.0, 15, 50] * 2, indexing="ij"))
    order = np.argsort(n * n * r, kind="stable")
    n, r = n[order], r[order]
    noise = np.random.default_rng(0).standard_normal(len(n))
    designs = [f"{a:.0f}-{b:.0f}" for a, b in zip(n, r, strict=True)]
    have = list(range(20))

    def chosen(unrevealed_sd: float) -> list[int]:
        sd = np.where(np.isin(np.arange(len(n)), have), 0.005, unrevealed_sd)
        loss = predict(BESIROGLU, n, n * r) * np.exp(sd * noise)
        table = make_table(n, n * r, loss, flops=6 * n * n * r, designs=designs)
        known = replace(table, frame=table.frame.iloc[have])
        pool = Pool(
            table=table,
            cost_m=6 * n * n * r,
            targets=replace(table, frame=table.frame.iloc[-1:]),
            seed=have,
            all_runs=fit(known, law=LAW, bootstrap=0),
        )
        return narrowing(pool, 0)(have, 0.3 * float(pool.cost_m.sum()))

    assert chosen(0.2) == chosen(0.005) != []
    assert noises[0] == noises[1]
