"""Every picture of a study, in the order in which a reader wants them, and their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.plots import (
    bowls,
    canvas,
    contours,
    extrapolation,
    inference,
    k_curve,
    learning_rate,
    lifetime,
    loss_curves,
    optima,
    pairs,
    residuals,
    uncertainty,
)
from analysis.plots.picture import Absent, Picture
from analysis.results import Study
from llama.errors import UserError

PICTURES: tuple[Callable[[Study], Picture | Absent], ...] = (
    loss_curves.loss_against_tokens,
    loss_curves.loss_against_flops,
    bowls.isoflop_bowls,
    optima.compute_optima,
    contours.iso_loss_contours,
    pairs.matched_pair,
    lifetime.lifetime_cost,
    lifetime.optimum_against_demand,
    lifetime.forecast_regret,
    uncertainty.uncertainty,
    inference.inference_speed,
    residuals.residuals,
    extrapolation.extrapolation_error,
    k_curve.k_curve,
    learning_rate.loss_against_learning_rate,
)


@dataclass(frozen=True, kw_only=True)
class SavedPicture:
    """A picture's three files."""

    picture: Picture
    png: Path
    svg: Path
    csv: Path


def make_pictures(study: Study) -> list[Picture | Absent]:
    """Every picture, or why these runs can't give it."""
    # Far from its runs a law may pass what a double holds; no axis has a place for that.
    with np.errstate(all="ignore"):
        return [make(study) for make in PICTURES]


def save_pictures(study: Study, folder: Path) -> list[SavedPicture | Absent]:
    """Write PNG (150 dots an inch), SVG and the CSV of every plotted point of each picture into `folder`."""
    return [made if isinstance(made, Absent) else save_picture(made, folder) for made in make_pictures(study)]


def save_picture(picture: Picture, folder: Path) -> SavedPicture:
    """Write the picture's three files.

    Raises:
        UserError: the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"no folder {folder} can be made for pictures ({error.strerror}): name a folder") from None
    saved = SavedPicture(
        picture=picture,
        png=folder / f"{picture.stem}.png",
        svg=folder / f"{picture.stem}.svg",
        csv=folder / f"{picture.stem}.csv",
    )
    saved.png.write_bytes(canvas.png(picture))
    saved.svg.write_text(canvas.svg(picture), encoding="utf-8")
    picture.points().to_csv(saved.csv, index=False, float_format="%.8g", lineterminator="\n")
    return saved
