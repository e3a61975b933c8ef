"""From a recommended model to what it does: the law's loss put through the runs' own curve of error or accuracy over loss.

The two steps of Gadre et al. 2024 (section 3) and of Llama 3 (arXiv 2407.21783, section 3.2.1), with the error of both.
"""

from __future__ import annotations

import numpy as np

from analysis.downstream.of_runs import downstream_results
from analysis.intervals import Z95, interval
from analysis.results import Fit, LossForecast, TaskForecast
from analysis.runs.table import RunTable
from analysis.words import number

#: Draws of the loss and of the curve.
DRAWS = 300
SEED = 0


def foresee_tasks(table: RunTable, fit: Fit, foreseen: LossForecast) -> tuple[TaskForecast, ...]:
    """Every target that the runs state, at the loss foreseen.

    The loss is drawn from its interval, normal in its logarithm on either side; the curve from its resamples; a run's scatter
    about the curve comes on top.
    """
    rng = np.random.default_rng(SEED)
    found = []
    for result in downstream_results(table, bootstrap=DRAWS if fit.draws_KP is not None else 0, over="loss"):
        curve = result.fit
        if curve is None:
            found.append(
                TaskForecast(
                    target=result.target,
                    loss=foreseen.loss,
                    value=None,
                    ci95=None,
                    fitted_losses=None,
                    outside=None,
                    absent=result.absent,
                )
            )
            continue
        ci95 = None
        if curve.draws_KP is not None:
            z = rng.standard_normal(len(curve.draws_KP))
            below, above = (abs(np.log(end / foreseen.loss)) / Z95 for end in (foreseen.ci95.lo, foreseen.ci95.hi))
            loss_K = foreseen.loss * np.exp(z * np.where(z < 0, below, above))
            scatter = curve.residual_sd * rng.standard_normal(len(z))
            ci95 = interval(np.clip(curve.redraw(loss_K) + scatter, 0.0, 1.0))
        fitted = curve.loss_range
        outside = None
        if not fitted.lo <= foreseen.loss <= fitted.hi:
            outside = (
                f"a loss of {foreseen.loss:.3f} is outside the {number(fitted.lo)} to {number(fitted.hi)} that the curve of "
                f"{result.target} was fitted to"
            )
        found.append(
            TaskForecast(
                target=result.target,
                loss=foreseen.loss,
                value=float(curve.predict(foreseen.loss)),
                ci95=ci95,
                fitted_losses=fitted,
                outside=outside,
                absent=None,
            )
        )
    return tuple(found)
