"""One count of N told as another, and laws with it: all parameters, without embeddings, with the head; 6 N D and exact FLOPs.

The counting rule changes the answer: over one set of runs the exponent of N_opt(C) was 0.54 counting the weights of matrix
products, 0.37 counting all and 0.70 counting the transformer alone. So a law is never carried over silently: a conversion
comes with its error, and a law told in another count with the loss error that this costs at its own runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.decisions.costs import training_flops
from analysis.fitting.fit import fit as fit_law
from analysis.laws import get_law
from analysis.optima.optimum import compute_optimum
from analysis.results import Array, ConvertedLaw, CountConversion, Exponents, Fit, FlopsRule, FlopsRuleChange, TokenCost
from analysis.runs.table import COUNTING, RunTable, make_frame
from llama.errors import UserError

#: The exponent where a table has too few sizes to fit one: width goes as the cube root of N (Pearce & Song 2024, equation 5).
CUBE_ROOT = 1 / 3
#: Sizes from which the exponent is fitted, and from which there is an error to state.
MIN_FITTED, MIN_SIZES = 3, 2
#: The count that the others are a power more than.
TRANSFORMER = "n_params_non_embedding"
#: Counts nearer than this share are one size.
SAME = 1e-9
#: Budgets over the largest fitted run's compute at which a change of FLOPs rule is told.
BUDGETS = (1.0, 10.0)


class Converted(NamedTuple):
    """A count under another rule and its relative error: 0 for a size of the table, larger beyond the sizes than among them."""

    value: Array
    error: Array


def convert(table: RunTable, n_params: Array | float, from_rule: str, to_rule: str) -> Converted:
    """`n_params` counted by `from_rule` as `to_rule` counts it; value and error have its shape.

    Sizes of the table are looked up. Between and beyond them the form of `CountConversion` stands in.

    Args:
        table: its runs hold both counts (`with_counts_from_shapes` works them out where shapes are known).
        n_params: above 0 and finite.
        from_rule, to_rule: n_params, n_params_non_embedding or n_params_matmul.

    Raises:
        UserError: an unknown rule, a count that isn't a positive number, or a table that can't tell one rule from the other.
    """
    _check_rules(from_rule, to_rule)
    wanted = np.asarray(n_params, dtype=np.float64)
    if not (np.isfinite(wanted) & (wanted > 0)).all():
        raise UserError(
            f"a count to convert is {wanted[~(np.isfinite(wanted) & (wanted > 0))][0]:g}; it must be above 0"
        )
    if from_rule == to_rule:
        return Converted(wanted.copy(), np.zeros_like(wanted))
    if (
        TRANSFORMER not in (from_rule, to_rule)
        and len(table.frame[list(COUNTING)].dropna().drop_duplicates()) >= MIN_FITTED
    ):
        # Head and embeddings are powers of the transformer's own count; of each other only where either is a small part.
        inside, error = convert(table, wanted, from_rule, TRANSFORMER)
        value, more = convert(table, inside, TRANSFORMER, to_rule)
        return Converted(value, error + more)
    return _apply(_count_conversion(table, from_rule, to_rule), wanted)


def _count_conversion(table: RunTable, from_rule: str, to_rule: str) -> CountConversion:
    """The form that `convert` uses between the transformer's count and another."""
    known = table.frame[[from_rule, to_rule]].dropna().drop_duplicates().sort_values([from_rule, to_rule])
    before, after = known[from_rule].to_numpy(dtype=np.float64), known[to_rule].to_numpy(dtype=np.float64)
    if len(before) < MIN_SIZES:
        raise UserError(
            f"{table.source} has {len(before)} sizes with both {from_rule} and {to_rule}; {MIN_SIZES} are needed to convert "
            "one into the other. Give both columns, or the shape (d_model, n_layers) and --vocab-size."
        )
    same = np.abs(after / before - 1) <= SAME
    if same.all():
        small_rule, coefficient, exponent = from_rule, 0.0, 1.0
    else:
        if not ((after > before).all() or (after < before).all()):
            odd = before[(after >= before) != (after[-1] >= before[-1])]
            raise UserError(
                f"{table.source}: {to_rule} is above {from_rule} at some sizes and not at others (at {from_rule} "
                f"{odd[0] if len(odd) else before[same][0]:g}); the columns don't count one family of models"
            )
        small_rule = from_rule if after[0] > before[0] else to_rule
        coefficient, exponent = _excess(np.minimum(before, after), np.abs(after - before))
    form = CountConversion(
        from_rule=from_rule,
        to_rule=to_rule,
        small_rule=small_rule,
        coefficient=coefficient,
        exponent=exponent,
        from_G=before,
        to_G=after,
        max_rel_error=0.0,
    )
    off = _by_form(form, before) / after - 1
    return replace(form, max_rel_error=float(np.abs(off).max()))


def _apply(form: CountConversion, n_params: Array | float) -> Converted:
    """Counts through a form: sizes of its table looked up, others converted, each with its relative error."""
    wanted = np.asarray(n_params, dtype=np.float64)
    value = np.asarray(_by_form(form, wanted))
    # What the form misses at its own sizes flatters it: a size that it never saw lies within its prediction interval.
    error = np.maximum(form.max_rel_error, _reach(form, wanted, value))
    # A size is looked up, unless two shapes share its count.
    nearest = np.abs(np.log(wanted)[..., None] - np.log(form.from_G)) <= SAME
    found = nearest.sum(axis=-1) == 1
    looked_up = form.to_G[np.argmax(nearest, axis=-1)]
    return Converted(np.where(found, looked_up, value), np.where(found, 0.0, error))


def with_counts_from_shapes(table: RunTable, *, vocab_size: int, tied_head: bool = False) -> RunTable:
    """The table with the counts that it lacks worked out from `n_params`, `d_model` and `n_layers`: exact for a LLaMA.

    Embeddings and norms follow from width, depth and vocabulary alone (`llama.accounting`), so neither d_ff nor heads matter.

    Raises:
        UserError: a vocabulary that isn't positive, or one whose embeddings are more than a run's parameters.
    """
    from llama.accounting import count_parameters
    from llama.config import ModelConfig

    if vocab_size < 1:
        raise UserError(f"the vocabulary's size is {vocab_size}; it must be 1 or more")
    frame = table.frame.copy()
    shaped = frame[["n_params", "d_model", "n_layers"]].dropna()
    for _, runs in shaped.groupby(["d_model", "n_layers"]):
        width, depth = int(runs["d_model"].iloc[0]), int(runs["n_layers"].iloc[0])
        # Twice the width with one head: rotary embedding wants it even; all three parts go with the width.
        probe = count_parameters(
            ModelConfig(
                vocab_size=vocab_size,
                d_model=2 * width,
                n_layers=depth,
                n_heads=1,
                n_kv_heads=1,
                d_ff=1,
                context_length=1,
                rope_theta=10_000.0,
                norm_eps=1e-5,
                tied_head=tied_head,
            )
        )
        head = vocab_size * width
        embeddings = (probe.n_params - probe.n_params_non_embedding) // 2
        norms = (probe.n_params_non_embedding + 2 * head - probe.n_params_matmul) // 2
        non_embedding = runs["n_params"] - embeddings
        if (non_embedding <= norms).any():
            raise UserError(
                f"{table.source}: a vocabulary of {vocab_size} at width {width} makes {embeddings:,} embedding parameters, but "
                f"the model has {runs['n_params'].min():,.0f} in all"
            )
        for rule, counted in (
            ("n_params_non_embedding", non_embedding),
            ("n_params_matmul", non_embedding - norms + head),
        ):
            frame.loc[runs.index, rule] = frame.loc[runs.index, rule].fillna(counted)
    return replace(table, frame=frame)


def convert_law(
    fit: Fit, table: RunTable, to_rule: str, *, vocab_size: int | None = None, tied_head: bool = False
) -> ConvertedLaw:
    """A fitted law told in another count, with what that costs, beside the law fitted anew in that count.

    `vocab_size` and `tied_head`, of the runs' tokenizer and head, work out counts that the runs lack from their shapes. The
    same form can't hold exactly in both counts: the converted law is its least-squares fit, in log loss, to what the law
    predicts at its own runs.

    Raises:
        UserError: as `convert`; or the runs can't identify the law in the new count.
    """
    _check_rules(fit.counting, to_rule)
    if vocab_size is not None:
        table = with_counts_from_shapes(table, vocab_size=vocab_size, tied_head=tied_head)
    law = get_law(fit.law)
    points = [point for point in fit.points if not point.held_out]
    before = np.array([point.n_params for point in points])
    frame = table.frame.drop_duplicates("run_id").set_index("run_id").reindex([point.run_id for point in points])
    after = frame[to_rule].to_numpy(dtype=np.float64, copy=True)
    error = np.zeros(len(after))
    unknown = np.isnan(after)
    if unknown.any():
        after[unknown], error[unknown] = convert(table, before[unknown], fit.counting, to_rule)
    rows = [
        {
            "run_id": point.run_id,
            "name": point.name,
            "n_params": after[i],
            "n_tokens": point.n_tokens,
            "loss": point.predicted,
            "unique_tokens": point.unique_tokens if np.isfinite(point.unique_tokens) else None,
            "status": "finished",
        }
        for i, point in enumerate(points)
    ]
    told = fit_law(
        RunTable(source=f"{table.source} counted by {to_rule}", frame=make_frame(rows)),
        law=fit.law,
        objective="lsq_log",
        bootstrap=0,
    )
    off = np.expm1([point.log_residual for point in told.points])
    refitted: Exponents | None = None
    refused = None
    try:
        again = fit_law(
            _only_fitted(fit, table),
            law=fit.law,
            objective=fit.objective,
            delta=fit.delta,
            counting=to_rule,
            weights=fit.weights,
            bootstrap=0,
        )
        refitted = again.exponents
    except UserError as reason:
        refused = str(reason)
    return ConvertedLaw(
        law=law.name,
        from_rule=fit.counting,
        to_rule=to_rule,
        params=told.params,
        exponents_before=fit.exponents,
        exponents=told.exponents,
        refitted=refitted,
        refused=refused,
        max_loss_error=float(np.abs(off).max()),
        rms_loss_error=float(np.sqrt((off**2).mean())),
        max_count_error=float(error.max()),
        n_runs=len(points),
    )


def _only_fitted(fit: Fit, table: RunTable) -> RunTable:
    """The runs that the law was fitted to, so that a second fit is of the same data: what was dropped stays out."""
    fitted = {point.run_id for point in fit.points if not point.held_out}
    frame = table.frame
    return replace(table, frame=frame[frame["run_id"].isin(fitted) & (frame["excluded"] == "")])


def against_six_nd(fit: Fit, table: RunTable, *, budgets: Sequence[float] | None = None) -> FlopsRule:
    """Plain 6 N D against the table's own FLOPs: how far a run's C moves, and N_opt and D_opt at a budget.

    Args:
        fit: the law whose optimum is asked for.
        table: with `flops` at two sizes or more.
        budgets: in FLOPs; None takes the largest fitted run's and ten times that.

    Raises:
        UserError: the table has no FLOPs of its own, or a budget isn't a positive number.
    """
    exact = training_flops(table, counting=fit.counting)
    if not len(exact.n_params_G):
        raise UserError(f"{table.source} has no FLOPs of its own (flops) at two sizes or more to hold against 6 N D")
    if budgets is None:
        budgets = [factor * largest_flops(table, fit.counting, exact) for factor in BUDGETS]
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    changes = []
    for budget in budgets:
        if not (np.isfinite(budget) and budget > 0):
            raise UserError(f"a budget is {budget:g} FLOPs; it must be above 0 and finite")
        plain, own = law.compute_optimum(params, budget), compute_optimum(law, params, budget, exact)
        changes.append(
            FlopsRuleChange(
                flops=float(budget),
                n_opt_6nd=float(plain[0]),
                d_opt_6nd=float(plain[1]),
                n_opt_exact=float(own[0]),
                d_opt_exact=float(own[1]),
            )
        )
    return FlopsRule(
        counting=fit.counting,
        rule=exact.rule,
        sizes_G=exact.n_params_G,
        exact_over_6nd_G=exact.measured_G / (6 * exact.n_params_G),
        changes=tuple(changes),
    )


def run_flops(runs: pd.DataFrame, counting: str, train_flops: TokenCost) -> Array:
    """Training FLOPs of runs: their own count, or `train_flops` of their size where they have none."""
    by_rule = runs["n_tokens"].to_numpy(dtype=np.float64) * train_flops(runs[counting].to_numpy(dtype=np.float64))
    own = runs["flops"].to_numpy(dtype=np.float64)
    return np.where(np.isnan(own), by_rule, own)


def largest_flops(table: RunTable, counting: str, train_flops: TokenCost) -> float:
    """Training FLOPs of the largest run that a fit by `counting` would see."""
    runs = table.fitted.dropna(subset=[counting])
    if not len(runs):
        raise UserError(f"{table.source} has no finished run with {counting}")
    return float(run_flops(runs, counting, train_flops).max())


def _check_rules(*rules: str) -> None:
    for rule in rules:
        if rule not in COUNTING:
            raise UserError(f"no counting rule is called {rule!r}; there are {', '.join(COUNTING)}")


def _excess(small_G: Array, excess_G: Array) -> tuple[float, float]:
    """(coefficient, exponent) of excess = coefficient * small^exponent, least squares in logs."""
    log_small, log_excess = np.log(small_G), np.log(excess_G)
    exponent = CUBE_ROOT
    centred = log_small - log_small.mean()
    if len(small_G) >= MIN_FITTED and centred @ centred > SAME:
        # Past 1 the larger count would outgrow the smaller, and below 0 it would not grow with it.
        exponent = float(np.clip(centred @ log_excess / (centred @ centred), 0.0, 1.0))
    return float(np.exp((log_excess - exponent * log_small).mean())), exponent


def _by_form(form: CountConversion, n_params: Array) -> Array:
    if form.coefficient == 0:
        return np.array(n_params, dtype=np.float64)
    if form.from_rule == form.small_rule:
        return np.asarray(n_params + form.coefficient * n_params**form.exponent)
    # large = small + c small^h has one root: Newton from above in log small, where the function is increasing and convex.
    log_small = np.log(n_params)
    for _ in range(60):
        small = np.exp(log_small)
        excess = form.coefficient * small**form.exponent
        step = (np.log(small + excess) - np.log(n_params)) * (small + excess) / (small + form.exponent * excess)
        log_small = log_small - step
        if np.max(np.abs(step), initial=0.0) < 1e-14:
            break
    return np.asarray(np.exp(log_small))


def _reach(form: CountConversion, from_count: Array, to_count: Array) -> Array:
    """Half of the 95 % prediction interval of a converted count, relative, by the line of log excess in log small."""
    from scipy.special import stdtrit

    if form.coefficient == 0:
        return np.zeros_like(from_count)
    small_G = np.minimum(form.from_G, form.to_G)
    log_small = np.log(small_G)
    residual = np.log(np.abs(form.to_G - form.from_G)) - np.log(form.coefficient) - form.exponent * log_small
    freedom = len(small_G) - (2 if len(small_G) >= MIN_FITTED else 1)
    sd = np.sqrt(float(residual @ residual) / freedom)
    small = from_count if form.from_rule == form.small_rule else to_count
    spread = max(float(((log_small - log_small.mean()) ** 2).sum()), SAME)
    half = (
        stdtrit(freedom, 0.975) * sd * np.sqrt(1 + 1 / len(small_G) + (np.log(small) - log_small.mean()) ** 2 / spread)
    )
    excess = form.coefficient * small ** (form.exponent - 1)
    # d ln(large) or d ln(small) by d ln(excess), the other count held.
    share = excess / (1 + excess) if form.from_rule == form.small_rule else excess / (1 + form.exponent * excess)
    with np.errstate(over="ignore"):
        return np.asarray(share * np.expm1(half))
