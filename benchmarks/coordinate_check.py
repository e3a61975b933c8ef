"""Do activations move alike at every width and depth? `python -m benchmarks.coordinate_check --out docs/images` draws it.

The coordinate check of Yang et al. 2022 (appendix D.1) and Dey et al. 2025 (figure 7): after a few steps at one base rate, the
mean absolute change of an activation must not depend on the model's shape. Where it grows, the rate is too high for the larger
model; where it falls, the larger model no longer learns. Slopes are of log change against log width or depth; 0 is flat. Real
text: the bytes of one module of the standard library. A minute on one core; one JSON document on stdout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.plots import style
from analysis.plots.canvas import png
from analysis.plots.picture import Axis, Line, Panel, Picture, Points
from benchmarks.machine import machine, versions
from llama.config import ModelConfig, llama_shape
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.recipes import Overrides, make_recipe
from llama.training_step import training_step

#: The base shape and a rate near its best; both dials pass through it.
BASE_WIDTH, BASE_LAYERS, D_HEAD, BASE_LR = 64, 4, 16, 8e-3
WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8, 16)
STEPS = (1, 2, 5, 10)
BATCH, CONTEXT = 8, 64
STREAM, LOGITS = "residual stream", "logits"


class Change(NamedTuple):
    """How far an activation is from where it started, after some steps of one model."""

    parametrization: str
    width: int
    layers: int
    steps: int
    activation: str
    mean_absolute: float
    """Of the change, over a probing batch."""


def model_of(width: int, layers: int) -> ModelConfig:
    """A byte LLaMA with heads of one size at every width, since that is what CompleteP carries numbers between."""
    return llama_shape(
        width, n_layers=layers, n_heads=width // D_HEAD, d_ff_multiple_of=16, vocab_size=256, context_length=CONTEXT
    )


def changes(parametrization: str, width: int, layers: int, *, steps: Sequence[int], seed: int) -> list[Change]:
    """Train one model at the base rate and measure its activations' change after each of `steps`.

    `standard` is this project's standard initialisation with one rate for all weights and shapes.
    """
    config = model_of(width, layers)
    if parametrization == "completep":
        own = Overrides(peak_lr=BASE_LR, base_width=BASE_WIDTH, base_layers=BASE_LAYERS, base_d_head=D_HEAD)
        recipe = make_recipe("completep", config, 10**6, own)
    else:
        recipe = make_recipe("inverse_width", config, 10**6, Overrides(peak_lr=BASE_LR))
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(seed), recipe.transfer)
    optimizer = make_optimizer(model, recipe)
    text, generator = module_bytes(), torch.Generator().manual_seed(seed)
    probe_BT = draw(text, generator)[:, :-1]
    start = activations(model, probe_BT)
    found = []
    for step in range(1, max(steps) + 1):
        tokens_BS = draw(text, generator)
        training_step(
            model, optimizer, tokens_BS, micro_batch_sequences=BATCH, learning_rate=BASE_LR, clip_norm=recipe.clip_norm
        )
        if step in steps:
            for name, value in activations(model, probe_BT).items():
                change = (value - start[name]).abs().mean().item()
                found.append(Change(parametrization, width, layers, step, name, change))
    return found


@torch.no_grad()
def activations(model: Llama, tokens_BT: Tensor) -> dict[str, Tensor]:
    """The stream that leaves the last block, [B, T, D], and the logits, [B, T, V]."""
    held: dict[str, Tensor] = {}
    hook = model.blocks[-1].register_forward_hook(lambda block, inputs, x_BTD: held.update({STREAM: x_BTD}))
    held[LOGITS] = model(tokens_BT)
    hook.remove()
    return held


def module_bytes() -> Tensor:
    return torch.frombuffer(bytearray(Path(argparse.__file__).read_bytes()), dtype=torch.uint8).long()


def draw(text: Tensor, generator: torch.Generator) -> Tensor:
    """A batch of sequences, one byte longer than the context, [B, S]."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH,), generator=generator)
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()])


def slope(found: Sequence[Change], along: str, activation: str, steps: int) -> float:
    """Of log mean change against log `width` or `layers`; changes at equal shapes (seeds) are averaged first."""
    table = pd.DataFrame(found)
    table = table[(table["activation"] == activation) & (table["steps"] == steps)]
    means = table.groupby(along)["mean_absolute"].mean()
    return float(np.polyfit(np.log(means.index.to_numpy(float)), np.log(means.to_numpy()), 1)[0])


def picture(by_width: Sequence[Change], by_depth: Sequence[Change]) -> Picture:
    """Change against width and against depth, standard beside CompleteP."""
    looks = {
        "standard": (style.ACCENT, "standard, one rate"),
        "completep": (style.SECOND, "CompleteP"),
    }
    dashes: dict[int, Any] = {1: "dotted", 10: "solid"}

    def panel(found: Sequence[Change], along: str, label: str, activation: str) -> Panel:
        table = pd.DataFrame(found)
        table = table[table["activation"] == activation]
        shapes = tuple(float(value) for value in sorted(table[along].unique()))
        layers: list[Any] = []
        for parametrization, (colour, name) in looks.items():
            for steps, dash in dashes.items():
                rows = table[(table["parametrization"] == parametrization) & (table["steps"] == steps)]
                means = rows.groupby(along)["mean_absolute"].mean().reset_index()
                text = f"{name}, step {steps}"
                layers.append(Line(table=means, series=text, colour=colour, dash=dash, legend=text))
                layers.append(Points(table=means, series=text, colour=colour, size=4.5))
        return Panel(
            title=f"{activation}, by {label}",
            x=Axis(column=along, label=label, unit="plain", ticks=shapes),
            y=Axis(column="mean_absolute", label="mean |change|", unit="plain"),
            layers=layers,
        )

    return Picture(
        stem="coordinate-check",
        title="Coordinate check: how far activations move in a few steps at one base rate",
        caption=(
            f"Base: width {BASE_WIDTH}, {BASE_LAYERS} layers, heads of {D_HEAD}, lr {BASE_LR:g}, no warm-up, batches of "
            f"{BATCH} x {CONTEXT} bytes of a module of the standard library; means over seeds. Width at {BASE_LAYERS} layers, "
            f"depth at width {BASE_WIDTH}. The curves of one step meet at the base, where both parametrizations are the same. "
            "The first step's logits pass through the random head, which CompleteP draws smaller the wider the model."
        ),
        panels=[
            panel(by_width, "width", "width", STREAM),
            panel(by_depth, "layers", "layers", STREAM),
            panel(by_width, "width", "width", LOGITS),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for coordinate-check.png")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    on = machine()
    dials = {"width": [(width, BASE_LAYERS) for width in WIDTHS], "layers": [(BASE_WIDTH, depth) for depth in DEPTHS]}
    found = {
        along: [
            change
            for parametrization in ("standard", "completep")
            for width, layers in shapes
            for seed in range(arguments.seeds)
            for change in changes(parametrization, width, layers, steps=STEPS, seed=seed)
        ]
        for along, shapes in dials.items()
    }
    slopes = {
        parametrization: {
            f"{activation} by {along}": {
                str(steps): round(
                    slope([c for c in rows if c.parametrization == parametrization], along, activation, steps), 3
                )
                for steps in STEPS
            }
            for along, rows in found.items()
            for activation in (STREAM, LOGITS)
        }
        for parametrization in ("standard", "completep")
    }
    if arguments.out is not None:
        (arguments.out / "coordinate-check.png").write_bytes(png(picture(found["width"], found["layers"])))
    print(json.dumps({"machine": on, "versions": versions("isoloss", "torch"), "slopes_by_step": slopes}, indent=2))


if __name__ == "__main__":
    main()
