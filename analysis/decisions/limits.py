"""What a model must respect beside its cost: memory, time a token, fresh data, sizes. Each a bound with its rule in words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from analysis.counting import convert
from analysis.decisions.costs import option_name
from analysis.decisions.serving import decode_seconds
from analysis.laws.repetition import R_D_STAR
from analysis.results import Interval, Limit, Serving
from analysis.runs.table import RunTable
from analysis.words import count, number
from llama.errors import UserError

#: Parameters, layers and width of LLaMA's four sizes (Touvron et al. 2023, table 2, and their counts with 32,000 tokens).
LLAMA = ((6.738e9, 32, 4096), (13.016e9, 40, 5120), (32.529e9, 60, 6656), (65.286e9, 80, 8192))
MIN_SHAPES = 2
BISECTIONS = 200
#: The widest range of sizes that a bound is looked for in.
SMALLEST, LARGEST = 1.0, 1e22


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits as they were named; None where nothing was said."""

    memory_bytes: float | None = None
    """Memory of the device, or devices, that serve one copy of the model: weights and KV cache must fit."""
    context_tokens: int | None = None
    batch_sequences: int | None = None
    """What the KV cache must hold: this many sequences of this many tokens."""
    bytes_per_param: float | None = None
    """Of the weights as served: 2 in bfloat16, 1 in 8 bits, 0.5 in 4."""
    kv_bytes_per_element: float | None = None
    """Of the KV cache: 2 in bfloat16."""
    kv_head_share: float = 1.0
    """KV heads over query heads: 1 in LLaMA's own models, 1/8 where eight heads share one."""
    tpot_seconds: float | None = None
    """Longest time for an output token of one sequence alone (batch 1)."""
    bandwidth: float | None = None
    """Bytes a second that the serving device reads its memory at."""
    largest_size: float | None = None
    smallest_size: float | None = None
    """In parameters, all counted."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise UserError(f"{option_name(option.name)} is {value:g}; it must be above 0 and finite")
        if self.kv_head_share > 1:
            raise UserError(f"--kv-head-share is {self.kv_head_share:g}; it is a share of the heads, at most 1")
        if self.memory_bytes is not None:
            self._need(
                ("context_tokens", "batch_sequences", "bytes_per_param", "kv_bytes_per_element"), "--memory-bytes"
            )
        if self.bandwidth is not None:
            self._need(("tpot_seconds", "bytes_per_param"), "--bandwidth")
        if self.smallest_size is not None and self.largest_size is not None and self.smallest_size > self.largest_size:
            raise UserError(
                f"--smallest-size {count(self.smallest_size)} is above --largest-size {count(self.largest_size)}"
            )

    def _need(self, names: tuple[str, ...], option: str) -> None:
        missing = [option_name(name) for name in names if getattr(self, name) is None]
        if missing:
            raise UserError(f"{option} needs {' and '.join(missing)} too")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One limit as sizes that it allows, in all parameters; None for a limit on data."""

    name: Literal["memory", "tpot", "largest_size", "smallest_size", "unique_tokens"]
    value: float
    n_params: Interval | None
    rule: str

    @property
    def in_words(self) -> str:
        """The option that asked for it, with its rule."""
        option = {"memory": "--memory-bytes", "tpot": "--tpot-seconds"}.get(self.name, option_name(self.name))
        return f"{option} ({self.rule})"

    def found(self, effect: str | None) -> Limit:
        """As a result: it binds where it has an effect."""
        return Limit(
            name=self.name,
            value=self.value,
            n_params=self.n_params,
            rule=self.rule,
            binds=effect is not None,
            effect=effect,
        )


def bounds(
    limits: Limits, table: RunTable, serving: Serving | None, *, unique_tokens: float | None, law_repeats: bool
) -> tuple[Bound, ...]:
    """Every limit that was named, as sizes that it allows.

    Args:
        serving: measured by all parameters (`counting` n_params); None where nothing was measured.
        unique_tokens: distinct tokens to train on; None: no limit.
        law_repeats: whether the law has a repetition constant of its own.

    Raises:
        UserError: a limit that no size can meet, or that can't be worked out.
    """
    found = []
    if limits.memory_bytes is not None:
        found.append(_memory(limits, table))
    if limits.tpot_seconds is not None:
        found.append(_tpot(limits, serving, table))
    if limits.largest_size is not None:
        found.append(_sizes("largest_size", limits.largest_size, Interval(lo=SMALLEST, hi=limits.largest_size)))
    if limits.smallest_size is not None:
        found.append(_sizes("smallest_size", limits.smallest_size, Interval(lo=limits.smallest_size, hi=LARGEST)))
    if unique_tokens is not None:
        whose = "the law's own" if law_repeats else f"Muennighoff et al.'s {R_D_STAR:.1f}, since the law has none"
        found.append(
            Bound(
                name="unique_tokens",
                value=unique_tokens,
                n_params=None,
                rule=f"{count(unique_tokens)} distinct tokens; repeated ones are worth less, with R_D* {whose}",
            )
        )
    return tuple(found)


def allowed(found: tuple[Bound, ...], table: RunTable, counting: str) -> Interval | None:
    """The sizes that all bounds allow, counted by `counting`; None where none limits them.

    Raises:
        UserError: they leave nothing.
    """
    sized = [(bound, bound.n_params) for bound in found if bound.n_params is not None]
    if not sized:
        return None
    low = max(sized, key=lambda entry: entry[1].lo)
    high = min(sized, key=lambda entry: entry[1].hi)
    if low[1].lo > high[1].hi:
        raise UserError(
            f"the limits leave no size: {high[0].in_words} allows at most {count(high[1].hi)} parameters, and "
            f"{low[0].in_words} asks for {count(low[1].lo)} or more"
        )
    edges = []
    for edge in (low[1].lo, high[1].hi):
        inside = SMALLEST < edge < LARGEST
        edges.append(float(convert(table, edge, "n_params", counting).value) if inside else edge)
    return Interval(lo=edges[0], hi=edges[1])


def kv_elements(table: RunTable) -> tuple[float, float, str]:
    """(coefficient, exponent, words): layers times width as a power of N, which the KV cache of a token goes by.

    Through the table's own shapes where it has two or more, else through LLaMA's four.
    """
    shaped = table.frame[["n_params", "n_layers", "d_model"]].dropna().drop_duplicates()
    if shaped["n_params"].nunique() >= MIN_SHAPES:
        n, elements = (
            np.asarray(values, dtype=np.float64)
            for values in (shaped["n_params"], shaped["n_layers"] * shaped["d_model"])
        )
        whose = f"the table's {len(shaped)} shapes"
    else:
        shapes = np.array(LLAMA, dtype=np.float64)
        n, elements = shapes[:, 0], shapes[:, 1] * shapes[:, 2]
        whose = "LLaMA's four shapes (Touvron et al. 2023)"
    log_n = np.log(n)
    centred = log_n - log_n.mean()
    exponent = float(centred @ np.log(elements) / (centred @ centred))
    coefficient = float(np.exp(np.log(elements).mean() - exponent * log_n.mean()))
    off = float(np.abs(coefficient * n**exponent / elements - 1).max())
    return coefficient, exponent, f"{whose} (within {off:.0%})"


def _memory(limits: Limits, table: RunTable) -> Bound:
    assert limits.memory_bytes is not None
    assert limits.bytes_per_param is not None
    assert limits.kv_bytes_per_element is not None
    assert limits.context_tokens is not None
    assert limits.batch_sequences is not None
    coefficient, exponent, whose = kv_elements(table)
    # Keys and values: two of each.
    held = 2 * limits.kv_bytes_per_element * limits.kv_head_share * limits.context_tokens * limits.batch_sequences
    largest = _largest(limits.bytes_per_param, held * coefficient, exponent, limits.memory_bytes)
    if largest is None:
        raise UserError(f"--memory-bytes {number(limits.memory_bytes)} holds no model at all with its KV cache")
    return Bound(
        name="memory",
        value=limits.memory_bytes,
        n_params=Interval(lo=SMALLEST, hi=largest),
        rule=(
            f"{limits.bytes_per_param:g} bytes a parameter and {limits.kv_bytes_per_element:g} a KV element for "
            f"{limits.batch_sequences} x {limits.context_tokens} tokens in {limits.memory_bytes / 1e9:.3g} GB; layers times "
            f"width goes as N^{exponent:.2f} through {whose}, with {limits.kv_head_share:.3g} of the heads for KV"
        ),
    )


def _largest(by_size: float, held: float, exponent: float, room: float) -> float | None:
    """The largest N with by_size N + held N^exponent within `room`; None where even one parameter is too many."""

    def needed(n_params: float) -> float:
        return float(by_size * n_params + held * n_params**exponent)

    if needed(SMALLEST) > room:
        return None
    low, high = np.log(SMALLEST), np.log(LARGEST)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(float(np.exp(middle))) <= room else (low, middle)
    return float(np.exp(low))


def _tpot(limits: Limits, serving: Serving | None, table: RunTable) -> Bound:
    assert limits.tpot_seconds is not None
    if limits.bandwidth is not None:
        assert limits.bytes_per_param is not None
        rule = f"{limits.bytes_per_param:g} bytes a parameter"
        held, exponent = 0.0, 1.0
        if limits.context_tokens is not None and limits.kv_bytes_per_element is not None:
            coefficient, exponent, _ = kv_elements(table)
            held = 2 * limits.kv_bytes_per_element * limits.kv_head_share * limits.context_tokens * coefficient
            rule += (
                f" and {limits.kv_bytes_per_element:g} a KV element of one sequence of {limits.context_tokens} tokens"
            )
        else:
            rule += ", no context counted (--context-tokens and --kv-bytes-per-element would),"
        rule += f" read at {limits.bandwidth / 1e9:.4g} GB/s for every output token"
        most = _largest(limits.bytes_per_param, held, exponent, limits.tpot_seconds * limits.bandwidth)
        if most is None:
            raise UserError(f"--tpot-seconds {limits.tpot_seconds:g} leaves no size: {rule}")
        largest = most
    else:
        measured = decode_seconds(serving) if serving is not None else None
        if measured is None:
            raise UserError(
                "--tpot-seconds needs decoding measured at batch 1, or --bandwidth and --bytes-per-param to work it out from"
            )
        assert serving is not None
        fixed, by_size = measured
        if limits.tpot_seconds <= fixed:
            raise UserError(
                f"--tpot-seconds {limits.tpot_seconds:g} leaves no size: on {serving.device} a token takes {fixed:.3g} s at "
                "any size (measured at batch 1)"
            )
        largest = (limits.tpot_seconds - fixed) / by_size if by_size > 0 else LARGEST
        rule = f"{fixed:.3g} s + {by_size:.3g} s a parameter, measured at batch 1 on {serving.device}"
    return Bound(name="tpot", value=limits.tpot_seconds, n_params=Interval(lo=SMALLEST, hi=largest), rule=rule)


def _sizes(name: Literal["largest_size", "smallest_size"], value: float, allowed_sizes: Interval) -> Bound:
    return Bound(name=name, value=value, n_params=allowed_sizes, rule=f"{count(value)} parameters, as asked")
