"""The study's answer in words: what to quote, what it rests on, what was measured and what was extrapolated."""

from __future__ import annotations

from collections.abc import Callable

from analysis.decisions.describe_recommendation import headline as advice_headline
from analysis.fitting.describe_fit import held_out_in_words, law_in_words
from analysis.results import (
    Answer,
    BudgetOptimum,
    Costs,
    Fit,
    Isoflop,
    Lifetime,
    MatchedPair,
    Optimum,
    Recommendation,
    ResidualStructure,
    Serving,
    Uncertainty,
)
from analysis.words import as_fast, brackets, count, flops, ratio_of, seconds, times

#: What the search for pairs looked for and didn't find.
NO_PAIR = (
    "of the runs that no cheaper run clearly beats, none is matched to within the noise by a smaller model trained on more "
    "tokens"
)

#: What near-equal losses differ by, in words.
TOLERANCES = {
    "seeds": "the noise between seeds",
    "law": "the fitted law's own scatter, its misfit included: no repeated seeds tell the noise",
    "assumed": "the 1 % that noise is taken for: neither repeated seeds nor a law tell it",
}

#: Less than this, small over large, is within what timings of one model vary by between measurements.
LEAST_SPEEDUP = 1.05


def put_in_words(
    *,
    fit: Fit | None,
    budgets: tuple[BudgetOptimum, ...],
    isoflop: Isoflop | None,
    serving: Serving | None,
    lifetime: Lifetime | None,
    pairs: tuple[MatchedPair, ...],
    absent: dict[str, str],
    recommendation: Recommendation | None = None,
    structure: ResidualStructure | None = None,
    costs: Costs | None = None,
    asked: bool = False,
) -> Answer:
    """One headline and the sentences below it; a missing part is said to be missing, with its reason.

    `asked`: a question was asked of the study, so that the recommendation is the headline, and the best pair comes second.
    """
    measured_pairs = [pair for pair in pairs if pair.kind == "measured"]
    best = measured_pairs[0] if measured_pairs else None
    sentences: list[str] = []
    first = _headline(best)
    if asked and recommendation is not None:
        sentences.append(first)
        first = advice_headline(recommendation)
    if best is not None:
        sentences += _pair_details(best, serving)
    if fit is not None:
        sentences += [law_in_words(fit), held_out_in_words(fit)]
    elif "fit" in absent:
        sentences.append(f"No law was fitted: {absent['fit']}")
    if budgets:
        sentences.append(_budget(budgets[-1]))
    if isoflop is not None:
        sentences.append(_isoflop(isoflop))
    if serving is not None:
        sentences.append(_serving(serving))
    if lifetime is not None:
        sentences.append(_lifetime(lifetime))
    if recommendation is not None and recommendation.uncertainty is not None:
        sentences += _whole_uncertainty(recommendation.uncertainty)
    if structure is not None and structure.structured:
        sentences.append(_structure(structure))
    for pair in pairs:
        if pair.kind == "fitted":
            sentences.append(_fitted_pair(pair, costs))
    return Answer(
        headline=first,
        sentences=tuple(sentences),
        measured=_measured(fit, serving, measured_pairs),
        interpolated=_interpolated(budgets, lifetime, pairs),
        extrapolated=_extrapolated(budgets, lifetime, pairs),
    )


def _serves_alike(pair: MatchedPair) -> bool:
    """Whether the two serve at speeds that a repeated measurement could put in either order."""
    return pair.speedup_saturated is not None and 1 <= pair.speedup_saturated < LEAST_SPEEDUP


def _headline(pair: MatchedPair | None) -> str:
    if pair is None:
        return f"These runs show no gain from training a smaller model longer: {NO_PAIR}."
    small, large = pair.small, pair.large
    reach = (
        f"{count(small.n_params)} parameters on {count(small.n_tokens)} tokens reach the loss of "
        f"{count(large.n_params)} on {count(large.n_tokens)}"
    )
    speed = pair.speedup_saturated
    if pair.serving_gap is not None:
        served = "" if speed is None else f", serve {as_fast(speed)} at saturation"
        if pair.break_even_tokens is None:
            return f"{reach}{served}; what that gains is open: {pair.serving_gap}."
        return f"{reach}{served}, and counted in FLOPs {_paid(pair)} (in time that is open: {pair.serving_gap})."
    if speed is None:
        return f"{reach}; what that gains is open."
    if pair.break_even_tokens is None or _serves_alike(pair):
        why = "but serve no measurably faster" if speed < LEAST_SPEEDUP else "but cost no less a served token"
        return f"{reach}, {why} at saturation ({as_fast(speed)}): these runs show no gain from training a smaller model longer."
    return f"{reach}, serve {as_fast(speed)} at saturation, and {_paid(pair)}."


def _paid(pair: MatchedPair) -> str:
    tokens, between = pair.break_even_tokens, pair.break_even_range
    assert tokens is not None
    if tokens == 0:
        return "cost no more to train: they are ahead from the first token served"
    said = f"have paid for the longer training after {count(tokens)} tokens served"
    return said + brackets(between, count)


def _pair_details(pair: MatchedPair, serving: Serving | None) -> list[str]:
    small, large = pair.small, pair.large
    said = [
        f"Both losses are measured: {small.loss:.3f} ({small.name}) against {large.loss:.3f} ({large.name}); differences "
        f"up to {pair.tolerance:.3f} nats are within {TOLERANCES[pair.tolerance_source]}."
    ]
    cost = []
    if pair.train_flops_ratio is not None:
        cost.append(ratio_of(pair.train_flops_ratio, "FLOPs"))
    if pair.train_seconds_ratio is not None:
        cost.append(ratio_of(pair.train_seconds_ratio, "measured training time"))
    if cost:
        said.append(f"Training the smaller one took {' and '.join(cost)}.")
    if pair.speedup_batch_1 is not None and pair.speedup_saturated is not None:
        said.append(
            f"Measured decoding of the smaller is {as_fast(pair.speedup_batch_1)} at batch 1 and "
            f"{as_fast(pair.speedup_saturated)} at saturation."
        )
    if serving is not None and pair.break_even_tokens is not None and pair.serving_gap is None:
        mix = f"Tokens served are {serving.prompt_share:.0%} prompt and {1 - serving.prompt_share:.0%} output"
        between = (
            ""
            if pair.break_even_range is None
            else "; the break-even's interval is the 5th to 95th percentile, from the spread of the timings"
        )
        said.append(f"{mix}{between}.")
    return said


def _budget(at: BudgetOptimum) -> str:
    best = at.optimum
    note = f" This is extrapolated: {'; '.join(best.outside_fitted_range)}." if best.outside_fitted_range else ""
    return (
        f"At {flops(at.flops)} the law's loss is least, {best.loss:.3f}{_ci(best, 'loss', lambda x: f'{x:.3f}')}, for "
        f"{_model(best)}.{note}"
    )


def _isoflop(isoflop: Isoflop) -> str:
    trusted = sum(vertex.flag is None for vertex in isoflop.vertices)
    said = f"Of {len(isoflop.vertices)} isoFLOP bowls {trusted} have a vertex inside their sizes"
    if isoflop.n_opt is not None:
        ci = isoflop.n_opt.exponent_ci95
        said += f"; through these N_opt goes as C^{isoflop.n_opt.exponent:.2f}"
        said += brackets(ci, lambda x: f"{x:.2f}")
    return said + "."


def _serving(serving: Serving) -> str:
    decode = next(batch for batch in serving.batches if batch.phase == "decode" and batch.batch is None)
    smallest, largest = float(decode.n_params_G[0]), float(decode.n_params_G[-1])
    share = decode.t0_seconds / (decode.t0_seconds + decode.seconds_per_param * smallest)
    return (
        f"A decoded token at saturation takes {decode.t0_seconds * 1e6:.3g} us and {decode.seconds_per_param * 1e12:.3g} us "
        f"for every million parameters (measured from {count(smallest)} to {count(largest)}, within "
        f"{decode.max_rel_error:.0%}): the fixed part is {share:.0%} of the smallest model's time."
    )


def _lifetime(lifetime: Lifetime) -> str:
    train, own = lifetime.training_optimal, lifetime.lifetime_optimal
    source = (
        f"with measured costs in {lifetime.costs.unit}" if lifetime.costs.source == "measured" else "counted in FLOPs"
    )
    kept = own.cost / float(train.cost + lifetime.demand_tokens * lifetime.costs.serve(train.n_params))
    said = (
        f"For a loss of {lifetime.target_loss:.3f} the cheapest to train is {_model(train)} "
        f"({seconds(train.cost, train.unit)}); {source}, the cheapest to own when it will serve "
        f"{count(lifetime.demand_tokens)} tokens is {_model(own)}: {1 - kept:.1%} less in all."
    )
    if own.outside_fitted_range:
        said += f" This is extrapolated: {'; '.join(own.outside_fitted_range)}."
    if train.outside_fitted_range:
        said += f" So is the cheapest to train, and with it what is saved: {'; '.join(train.outside_fitted_range)}."
    return said


def _whole_uncertainty(found: Uncertainty) -> list[str]:
    """How far that size moves with what an analyst chooses, beside what sampling leaves open."""
    if found.joint is None:
        return []
    spread = {part.factor: part.sd_log_n for part in found.contributions if part.sd_log_n}
    chosen = {factor: sd for factor, sd in spread.items() if factor not in ("sampling", "seed")}
    said = (
        f"With every choice of objective, outliers, law and count that the runs don't reject, its 95 % interval is"
        f"{brackets(found.joint['n_params'], count)}"
    )
    if chosen and spread.get("sampling"):
        most = max(chosen, key=lambda factor: chosen[factor])
        beside = times(chosen[most] / spread["sampling"])
        said += f"; the choice of {most} moves it most (sd of ln N {beside} that of sampling)"
    return [f"{said}."]


def _structure(structure: ResidualStructure) -> str:
    shapes = "; ".join(axis.shape for axis in structure.axes if axis.structured)
    return f"The law leaves structure in its residuals: {shapes}."


def _fitted_pair(pair: MatchedPair, costs: Costs | None) -> str:
    counted = "at the measured costs" if costs is not None and costs.source == "measured" else "counted in FLOPs"
    paid = (
        f"would never pay {counted}"
        if pair.break_even_tokens is None
        else "would cost no more to train"
        if pair.break_even_tokens == 0
        else f"would have paid for itself after {count(pair.break_even_tokens)} tokens served"
    )
    kind = "by extrapolation" if pair.extrapolated else "by the law, inside its range"
    return (
        f"Not measured, {kind}: {count(pair.small.n_params)} parameters on {count(pair.small.n_tokens)} tokens would reach the "
        f"compute-optimal {pair.large.loss:.3f} of {count(pair.large.n_params)} on {count(pair.large.n_tokens)}, and {paid}."
    )


def _measured(fit: Fit | None, serving: Serving | None, pairs: list[MatchedPair]) -> tuple[str, ...]:
    said = []
    if fit is not None:
        said.append(f"the final losses of {len(fit.points)} finished runs")
    if serving is not None:
        said.append(f"serving speed of {len(serving.per_token.n_params_G)} sizes on {serving.device}")
    if pairs:
        priced = any(pair.speedup_saturated is not None and pair.serving_gap is None for pair in pairs)
        what = "losses, tokens, training cost and speed" if priced else "losses and tokens"
        said.append(f"{len(pairs)} matched pair{'s' if len(pairs) > 1 else ''} of runs: {what} of both sides")
    return tuple(said)


def _interpolated(
    budgets: tuple[BudgetOptimum, ...], lifetime: Lifetime | None, pairs: tuple[MatchedPair, ...]
) -> tuple[str, ...]:
    said = []
    if any(not at.optimum.outside_fitted_range for at in budgets):
        said.append("compute-optimal models between the sizes that were trained: by the law")
    if lifetime is not None and not lifetime.extrapolated_G.all():
        said.append(
            "lifetime optima inside the fitted range: by the law, with costs on a line through the measured sizes"
        )
    if any(pair.kind == "fitted" and not pair.extrapolated for pair in pairs):
        said.append("the fitted pair: by the law")
    return tuple(said)


def _extrapolated(
    budgets: tuple[BudgetOptimum, ...], lifetime: Lifetime | None, pairs: tuple[MatchedPair, ...]
) -> tuple[str, ...]:
    # By what each of them leaves the runs stands in its own sentence.
    far_budgets = [flops(at.flops) for at in budgets if at.optimum.outside_fitted_range]
    said = [f"the compute-optimal model at {', '.join(far_budgets)}: outside the fitted runs"] if far_budgets else []
    if lifetime is not None:
        far = lifetime.extrapolated_G
        if far.any():
            grid = lifetime.demand_tokens_G[far]
            said.append(
                f"lifetime optima at demands of {count(float(grid.min()))} to {count(float(grid.max()))} tokens: they leave "
                "the fitted range"
            )
    if any(pair.kind == "fitted" and pair.extrapolated for pair in pairs):
        said.append("the fitted pair: outside the fitted runs")
    return tuple(said)


def _model(best: Optimum) -> str:
    return (
        f"{count(best.n_params)} parameters{_ci(best, 'n_params', count)} on {count(best.n_tokens)} tokens"
        f"{_ci(best, 'n_tokens', count)}"
    )


def _ci(best: Optimum, name: str, show: Callable[[float], str]) -> str:
    return brackets(None if best.ci95 is None else best.ci95[name], show)
