"""What a search for rates leaves: recipe.yaml, trials.csv and pictures, and the numbers that MLflow's parent run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.plots.gallery import save_picture
from sweeps.tuning.optimum import Curve
from sweeps.tuning.rate_law import RateLaws
from sweeps.tuning.rate_pictures import held_out_picture, law_picture, trials_picture
from sweeps.tuning.rate_study import RateStudy
from sweeps.tuning.trials import Trial

RECIPE = "recipe.yaml"
TRIALS = "trials.csv"


def write_rate_report(
    study: RateStudy, tried: Sequence[Trial], laws: RateLaws, curves: Mapping[str, Curve], folder: Path
) -> None:
    """Files of one name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(study.recipe_yaml(), encoding="utf-8")
    rows = pd.DataFrame([one.model_dump() for one in tried])
    rows.to_csv(folder / TRIALS, index=False, float_format="%.8g", lineterminator="\n")
    save_picture(trials_picture(study, tried, curves), folder)
    save_picture(law_picture(study, laws), folder)
    save_picture(held_out_picture(study, tried, curves), folder)


def rate_metrics(study: RateStudy) -> dict[str, float]:
    """For MLflow's parent run."""
    law, batch = study.peak_lr, study.batch_tokens
    found = {
        "tune/peak_lr/n_exponent": law.n_exponent,
        "tune/peak_lr/d_exponent": law.d_exponent,
        "tune/peak_lr/at_middle": law.at_middle,
        "tune/batch/n_exponent": batch.n_exponent,
        "tune/batch/d_exponent": batch.d_exponent,
        "tune/noise": study.noise,
    }
    metrics = {name: value for name, value in found.items() if value is not None}
    for check in study.held_out:
        metrics[f"tune/held_out/{check.cell}/predicted_lr_over_best"] = check.predicted_lr / check.best_lr
        if check.difference is not None:
            metrics[f"tune/held_out/{check.cell}/tuned_minus_default"] = check.difference
    return metrics
