"""A sweep that trains in no time on made-up text, written out as a person would."""

import random
from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "corpus": {
        "domains": {"text": {"files": ["text.txt"], "weight": 1, "max_document_bytes": 2_000}},
        "tokenizer": {"vocab_size": 280},
        "held_out_fraction": 0.2,
    },
    "recipe": {"name": "width_and_horizon", "batch_tokens": 128, "warmup_tokens": 512, "cooldown_min_steps": 2},
    "evaluation": {"validation_tokens": 256},
}


def write(values: dict[str, Any], folder: Path) -> str:
    """A sweep's YAML and its text; returns the YAML's path."""
    folder.mkdir(exist_ok=True)
    words, draw = ["one", "two", "three", "many", "few", "is", "more", "than"], random.Random(0)
    (folder / "text.txt").write_text(" ".join(draw.choice(words) for _ in range(30_000)))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "tiny.yaml")
