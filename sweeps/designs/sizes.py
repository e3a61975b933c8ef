"""`Ladder`: the model sizes of a sweep, as a person writes them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from llama.config import NORM_EPS, ROPE_THETA, Config, ModelConfig, Positive, PositiveFloat, llama_d_ff
from llama.released_sizes import ReleasedSize, released_size
from sweeps.designs.ladder import heads_for_width, model_for_width
from sweeps.yaml_lines import refuse, repeated

#: Of sweeps and shapes: they name folders and runs.
SHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _first_message(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if errors else str(error)


class Shape(Config):
    """A model shape given in full, where the ladder's rules won't do."""

    name: str | None = None
    """Short; `w<width>L<layers>` unless given."""
    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    n_kv_heads: Positive | None = None
    """Fewer than `n_heads` is grouped-query attention; as many unless given."""
    d_ff: Positive | None = None
    """LLaMA's 2/3 of 4 d, rounded up to a multiple of 16, unless given."""
    rope_theta: PositiveFloat = ROPE_THETA
    norm_eps: PositiveFloat = NORM_EPS
    tied_head: bool = False

    @model_validator(mode="after")
    def _check(self) -> Shape:
        try:
            self.model(vocab_size=1, context_length=1)
        except ValueError as error:
            raise ValueError(_first_message(error)) from None
        return self

    @property
    def label(self) -> str:
        return self.name or f"w{self.d_model}L{self.n_layers}"

    def model(self, *, vocab_size: int, context_length: int) -> ModelConfig:
        return ModelConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            d_ff=self.d_ff or llama_d_ff(self.d_model, multiple_of=16),
            context_length=context_length,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            tied_head=self.tied_head,
        )


class Ladder(Config):
    """The model sizes: widths, from which `sweeps.designs.ladder` makes shapes by rule, shapes in full, or LLaMA's own by name.
    The vocabulary is the tokenizer's.
    """

    widths: Annotated[list[Positive], Field(min_length=1)] | None = None
    shapes: Annotated[list[Shape], Field(min_length=1)] | None = None
    sizes: Annotated[list[ReleasedSize], Field(min_length=1)] | None = None
    """LLaMA's sizes as released; with another vocabulary than its 32,000 their parameters are others."""
    context_length: Annotated[int, Field(ge=2)]
    """Tokens in a training sequence."""

    @model_validator(mode="after")
    def _check(self) -> Ladder:
        if [self.widths, self.shapes, self.sizes].count(None) != 2:
            raise ValueError("give one of widths, shapes and sizes")
        problems = []
        for index, width in enumerate(self.widths or []):
            try:
                heads_for_width(width)
            except ValueError as error:
                problems.append((f"widths.{index}", str(error)))
        problems += [("widths", f"width {width} stands twice") for width in repeated(self.widths or [])]
        problems += [("sizes", f"size {name} stands twice") for name in repeated(self.sizes or [])]
        labels = [shape.label for shape in self.shapes or []]
        problems += [("shapes", f"two shapes are called {label}: name one") for label in repeated(labels)]
        problems += [
            (f"shapes.{index}.name", f"{label!r} names runs: letters, digits, '.', '_' and '-' only")
            for index, label in enumerate(labels)
            if not SHORT_NAME.fullmatch(label)
        ]
        if problems:
            refuse(*problems)
        return self

    @property
    def all_widths(self) -> list[int]:
        return list(self.width_by_size.values())

    @property
    def width_by_size(self) -> dict[str, int]:
        """By label, as written."""
        return {label: model.d_model for label, model in self.models(vocab_size=1).items()}

    def models(self, vocab_size: int) -> dict[str, ModelConfig]:
        """Shapes by label, as written."""
        context = self.context_length
        if self.shapes is not None:
            return {s.label: s.model(vocab_size=vocab_size, context_length=context) for s in self.shapes}
        if self.sizes is not None:
            return {name: released_size(name, vocab_size=vocab_size, context_length=context) for name in self.sizes}
        return {
            f"w{width}": model_for_width(width, vocab_size=vocab_size, context_length=context)
            for width in self.widths or []
        }
