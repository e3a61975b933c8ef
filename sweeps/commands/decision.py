"""What a decision hangs on, as options: the question, what it costs, limits, and more than one model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from analysis.decisions.options import DecisionOptions
from llama.errors import UserError

QUESTION, COSTS, LIMITS, FAMILY = "The question", "What it costs", "Limits", "More than one model"


def decision_options(
    compute: Annotated[
        float | None,
        typer.Option("--compute", "--target-flops", help="Training FLOPs to spend.", rich_help_panel=QUESTION),
    ] = None,
    target_loss: Annotated[float | None, typer.Option(help="Nats a token to reach.", rich_help_panel=QUESTION)] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Dollars for training and serving together (FLOPs where no price is named).",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    demand: Annotated[
        float | None, typer.Option(help="Tokens to serve over the model's life.", rich_help_panel=QUESTION)
    ] = None,
    prompt_share: Annotated[
        float | None, typer.Option(help="Share of them that is prompt, from 0 to 1.", rich_help_panel=QUESTION)
    ] = None,
    unique_tokens: Annotated[
        float | None,
        typer.Option(help="Distinct tokens there are to train on; more are repetitions.", rich_help_panel=QUESTION),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="Dollars for an hour of one device.", rich_help_panel=COSTS)
    ] = None,
    serving_price_per_hour: Annotated[
        float | None,
        typer.Option(help="Of a device that serves (default: as in training).", rich_help_panel=COSTS),
    ] = None,
    peak_flops: Annotated[
        float | None, typer.Option(help="FLOP/s of a training device at its best: 9.9e14.", rich_help_panel=COSTS)
    ] = None,
    serving_peak_flops: Annotated[
        float | None, typer.Option(help="Of a serving device (default: as in training).", rich_help_panel=COSTS)
    ] = None,
    train_utilisation: Annotated[
        float | None, typer.Option(help="Share of the peak that training reaches (MFU).", rich_help_panel=COSTS)
    ] = None,
    prefill_utilisation: Annotated[
        float | None, typer.Option(help="Share that reading prompts reaches.", rich_help_panel=COSTS)
    ] = None,
    decode_utilisation: Annotated[
        float | None,
        typer.Option(help="Share that writing output reaches: often a few per cent.", rich_help_panel=COSTS),
    ] = None,
    quantisation: Annotated[
        float | None, typer.Option(help="Multiplier on what serving costs: 0.5 for half.", rich_help_panel=COSTS)
    ] = None,
    costs: Annotated[
        Literal["auto", "flops", "measured"],
        typer.Option(help="auto takes measured costs where there are any.", rich_help_panel=COSTS),
    ] = "auto",
    memory_bytes: Annotated[
        float | None, typer.Option(help="Memory that weights and KV cache must fit into.", rich_help_panel=LIMITS)
    ] = None,
    context_tokens: Annotated[
        int | None, typer.Option(help="Tokens a sequence that the KV cache holds.", rich_help_panel=LIMITS)
    ] = None,
    batch_sequences: Annotated[
        int | None, typer.Option(help="Sequences that it holds.", rich_help_panel=LIMITS)
    ] = None,
    bytes_per_param: Annotated[
        float | None, typer.Option(help="Of the weights as served: 2 in bfloat16.", rich_help_panel=LIMITS)
    ] = None,
    kv_bytes_per_element: Annotated[
        float | None, typer.Option(help="Of the KV cache: 2 in bfloat16.", rich_help_panel=LIMITS)
    ] = None,
    kv_head_share: Annotated[float, typer.Option(help="KV heads over query heads.", rich_help_panel=LIMITS)] = 1.0,
    tpot_seconds: Annotated[
        float | None, typer.Option(help="Longest time for an output token at batch 1.", rich_help_panel=LIMITS)
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            help="Bytes a second of the serving device, where decoding was not measured.", rich_help_panel=LIMITS
        ),
    ] = None,
    largest_size: Annotated[
        float | None, typer.Option(help="In parameters, all counted.", rich_help_panel=LIMITS)
    ] = None,
    smallest_size: Annotated[
        float | None, typer.Option(help="In parameters, all counted.", rich_help_panel=LIMITS)
    ] = None,
    size: Annotated[
        list[float] | None,
        typer.Option(
            metavar="N",
            help="A size to tell break-evens between, counted as --counting says (default: the measured ones). Repeatable.",
            rich_help_panel=FAMILY,
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K | N:SHARE",
            help="Several sizes under the one budget: their number, or each size with its share of the demand, 7e9:0.6. "
            "Repeatable.",
            rich_help_panel=FAMILY,
        ),
    ] = None,
) -> DecisionOptions:
    """What is asked of a recommendation, `recommend`'s or a report's."""
    from analysis.decisions.costs import Prices
    from analysis.decisions.limits import Limits

    prices = Prices(
        price_per_hour=price_per_hour,
        serving_price_per_hour=serving_price_per_hour,
        peak_flops=peak_flops,
        serving_peak_flops=serving_peak_flops,
        train_utilisation=train_utilisation,
        prefill_utilisation=prefill_utilisation,
        decode_utilisation=decode_utilisation,
        quantisation=quantisation,
    )
    limits = Limits(
        memory_bytes=memory_bytes,
        context_tokens=context_tokens,
        batch_sequences=batch_sequences,
        bytes_per_param=bytes_per_param,
        kv_bytes_per_element=kv_bytes_per_element,
        kv_head_share=kv_head_share,
        tpot_seconds=tpot_seconds,
        bandwidth=bandwidth,
        largest_size=largest_size,
        smallest_size=smallest_size,
    )
    return DecisionOptions(
        flops=compute,
        target_loss=target_loss,
        budget=budget,
        demand_tokens=demand,
        prompt_share=prompt_share,
        unique_tokens=unique_tokens,
        prices=prices if prices != Prices() else None,
        costs=costs,
        limits=limits if limits != Limits() else None,
        sizes=tuple(size or ()),
        members=_members(family),
    )


def _members(family: list[str] | None) -> int | list[tuple[float, float]] | None:
    """What `analysis.decisions.family` takes for --family: a number of sizes, or sizes with their shares."""
    if not family:
        return None
    if len(family) == 1 and family[0].isdigit():
        return int(family[0])
    try:
        members = [(float(size), float(share)) for size, share in (text.split(":") for text in family)]
    except ValueError:
        raise UserError(
            f"--family {' --family '.join(family)} is neither one number of sizes nor sizes with shares, such as "
            "--family 7e9:0.6 --family 13e9:0.4"
        ) from None
    return members
