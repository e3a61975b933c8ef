"""The noise about a law as far as runs show it, and what is taken for granted where they don't."""

from __future__ import annotations

import numpy as np

from analysis.fitting.bootstrap import TRUNK_SHARE, SeedNoise, seed_noise
from analysis.fitting.run_noise import RunNoise
from analysis.results import Fit
from analysis.runs.table import RunTable

#: Share of the residuals' variance that is the law's misfit, where no repeated seeds can show it, and how far it reaches.
MISFIT_SHARE, MISFIT_LENGTH = 0.85, 3.0
#: The least noise, as a share of the residuals' sd.
LEAST_NOISE = 0.1


def noise_of(table: RunTable, fit: Fit) -> tuple[RunNoise, str]:
    """The noise between seeds and the law's misfit, told apart by repeated seeds where there are some; and that in words."""
    groups = [point.group for point in fit.points if point.group]
    seeds = seed_noise(table.fitted)
    noise, rule = noise_within(fit.residual_sd, seeds, has_trunks=len(set(groups)) < len(groups))
    return noise, rule if seeds is not None else f"no seeds repeat: {rule}"


def noise_within(residual_sd: float, seeds: SeedNoise | None, *, has_trunks: bool) -> tuple[RunNoise, str]:
    """The same from the sd of log loss about the law and, where they were seen, from what seeds differ by."""
    total = max(residual_sd, 1e-6)
    if seeds is None:
        sd = total * np.sqrt(1 - MISFIT_SHARE)
        rule = f"{MISFIT_SHARE:.0%} of the variance of the residuals (sd {total:.2%}) is taken for the law's misfit"
    else:
        sd = max(seeds.sd, LEAST_NOISE * total)
        rule = (
            f"seeds differ by {seeds.sd:.2%} ({seeds.degrees_of_freedom} degrees of freedom), residuals by {total:.2%}"
        )
    trunk_share = 0.0
    if has_trunks:
        known = seeds.trunk_share if seeds is not None else None
        trunk_share = min(TRUNK_SHARE if known is None else known, 0.95)
        rule += f"; branches of a trunk share {trunk_share:.0%} of the seeds' variance"
    noise = RunNoise(
        sd=float(sd),
        misfit_sd=float(np.sqrt(max(total**2 - sd**2, 0.0))),
        misfit_length=MISFIT_LENGTH,
        trunk_share=trunk_share,
    )
    return noise, rule
