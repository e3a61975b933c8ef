"""Cells of the design: which runs of a foreign table differ in nothing but their seed.

What noise there is between seeds is read off such cells, so that joining two runs that were set up differently would be worse
than leaving a pair of seeds unseen: a cell is made only where seeds are stated, of runs that agree in everything the table
knows, and not where one seed appears twice (something that the table doesn't know then differs). Runs of equal N and D without
stated seeds may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

#: What runs of one cell agree in, of the table's own columns.
ALIKE = (
    *("n_params", "n_params_non_embedding", "n_params_matmul", "d_model", "n_layers"),
    *("n_tokens", "planned_tokens", "unique_tokens", "flops_budget", "peak_lr", "held_out", "weight"),
)
#: A column that the table doesn't know is a setting of the runs when it has at most this share of values as there are runs.
#: Results, names, paths and times differ from run to run, and tell nothing.
SETTING = 0.5


def seed_cells(frame: pd.DataFrame, others: Mapping[str, pd.Series]) -> pd.Series:
    """Names of the runs' cells, "" where a run has none; `others` is what the source of a RunTable's `frame` says beside it."""
    cells = pd.Series("", index=frame.index, dtype="str")
    seeded = frame[frame["seed"].notna() & (frame["excluded"] == "")]
    if not len(seeded):
        return cells
    alike = seeded[list(ALIKE)].copy()
    for name, values in others.items():
        values = values[seeded.index]
        if values.nunique() <= SETTING * len(seeded):
            alike["/" + name] = values
    number = alike.groupby(list(alike.columns), dropna=False, sort=False).ngroup()
    twice = seeded["seed"].groupby(number).transform(lambda seeds: seeds.duplicated().any()).astype(bool)
    cells[seeded.index] = ("cell-" + (number + 1).astype("str")).where(~twice, "")
    return cells
