"""Counting rules: counts convert with an honest error, laws with the loss that it costs; the exponent moves with the rule."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.counting import against_six_nd, convert, convert_law, with_counts_from_shapes
from analysis.describe_counting import conversion_json, describe_conversion, describe_flops_rule, flops_rule_json
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.runs.table import COUNTING, RunTable, make_frame
from llama.accounting import count_parameters, training_flops_per_token
from llama.config import ModelConfig, llama_d_ff
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, predict

VOCAB = 32_000
#: Widths of a ladder whose depth goes with its width, 64 to a head.
WIDTHS = (128, 192, 256, 384, 512, 768, 1024)


def ladder_model(width: int, vocab_size: int = VOCAB) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        d_model=width,
        n_layers=max(2, width // 64),
        n_heads=max(1, width // 64),
        n_kv_heads=max(1, width // 64),
        d_ff=llama_d_ff(width, 16),
        context_length=1024,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=False,
    )


def ladder_table(
    rule: str = "n_params",
    *,
    widths: tuple[int, ...] = WIDTHS,
    counts: tuple[str, ...] = COUNTING,
    vocab_size: int = VOCAB,
) -> RunTable:
    """Runs of a LLaMA ladder whose losses follow BESIROGLU exactly in the count `rule`, five lengths a size."""
    rows = []
    for width in widths:
        model = ladder_model(width, vocab_size)
        counted = count_parameters(model)._asdict()
        for ratio in (5, 10, 20, 40, 80):
            tokens = ratio * counted["n_params"]
            rows.append(
                {
                    "run_id": f"w{width}-{ratio}",
                    "name": f"w{width}-{ratio}",
                    "n_params": float(counted["n_params"]),
                    "n_tokens": float(tokens),
                    "loss": float(predict(BESIROGLU, np.array(float(counted[rule])), np.array(float(tokens)))),
                    "flops": float(tokens * training_flops_per_token(model)),
                    "d_model": width,
                    "n_layers": model.n_layers,
                    "status": "finished",
                    **{name: float(counted[name]) for name in counts},
                }
            )
    return RunTable(source="a ladder", frame=make_frame(rows))


@pytest.mark.parametrize("to_rule", COUNTING)
@pytest.mark.parametrize("from_rule", COUNTING)
def test_sizes_of_the_table_are_looked_up_and_others_converted_within_the_error(from_rule: str, to_rule: str) -> None:
    """The odd widths were never in the table: the true counts lie within the errors that are stated for them."""
    table = ladder_table(widths=WIDTHS[::2])
    for width in WIDTHS:
        counted = count_parameters(ladder_model(width))._asdict()
        value, error = convert(table, float(counted[from_rule]), from_rule, to_rule)
        assert value.shape == ()
        assert float(value) == pytest.approx(counted[to_rule], rel=max(1e-9, float(error)))
        if width in WIDTHS[::2]:
            assert float(error) == 0
            assert float(value) == counted[to_rule] or from_rule == to_rule
        elif from_rule != to_rule:
            assert 0 < float(error) < 0.05


def test_the_error_is_larger_beyond_the_sizes_and_covers_what_was_left_out() -> None:
    small, large = ladder_table(widths=WIDTHS[:5]), count_parameters(ladder_model(2048))
    smallest = float(small.frame["n_params"].min())
    value, error = convert(small, float(large.n_params), "n_params", "n_params_non_embedding")
    assert abs(value / large.n_params_non_embedding - 1) <= error
    among = convert(small, float(smallest * 1.01), "n_params", "n_params_non_embedding").error
    below = convert(small, smallest / np.array([2.0, 8.0]), "n_params", "n_params_non_embedding").error
    assert among < below[0] < below[1]


@settings(max_examples=30, deadline=None)
@given(log_n=st.floats(np.log(1e4), np.log(1e12)), rules=st.sampled_from([(a, b) for a in COUNTING for b in COUNTING]))
def test_there_and_back_again(log_n: float, rules: tuple[str, str]) -> None:
    """A count comes back as it was, grows with its argument, stays positive and has a finite error, at any size."""
    table, n = ladder_table(), float(np.exp(log_n))
    there, error = convert(table, np.array([n, n * 1.5]), *rules)
    assert (there > 0).all()
    assert there[1] > there[0]
    assert np.isfinite(error).all()
    assert (error >= 0).all()
    back, _ = convert(table, there, rules[1], rules[0])
    assert back == pytest.approx([n, n * 1.5], rel=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_counts_from_shapes_are_the_models_own(tied: bool) -> None:
    """Width, depth and vocabulary give what the model counts, whatever its d_ff and heads."""
    rows, models = [], []
    for width, d_ff, kv in ((96, 250, 2), (128, 999, 4), (256, 700, 1)):
        model = ladder_model(width).model_copy(update={"d_ff": d_ff, "n_heads": 4, "n_kv_heads": kv, "tied_head": tied})
        counted = count_parameters(model)
        models.append(counted)
        rows.append(
            {"run_id": f"{width}", "n_params": float(counted.n_params), "d_model": width, "n_layers": model.n_layers}
        )
    bare = RunTable(source="bare", frame=make_frame(rows))
    filled = with_counts_from_shapes(bare, vocab_size=VOCAB, tied_head=tied).frame
    assert filled["n_params_non_embedding"].tolist() == [counted.n_params_non_embedding for counted in models]
    assert filled["n_params_matmul"].tolist() == [counted.n_params_matmul for counted in models]
    given = with_counts_from_shapes(bare, vocab_size=VOCAB, tied_head=tied)
    value, error = convert(given, float(models[1].n_params), "n_params", "n_params_matmul")
    assert (float(value), float(error)) == (models[1].n_params_matmul, 0.0)
    with pytest.raises(UserError, match="embedding parameters"):
        with_counts_from_shapes(bare, vocab_size=10_000_000)


def test_the_exponent_moves_with_the_rule_as_the_refit_says() -> None:
    """Losses that follow a law in the transformer's parameters alone: counting all of them makes N_opt grow more slowly."""
    table = ladder_table("n_params_non_embedding")
    law = fit(table, counting="n_params_non_embedding", bootstrap=0)
    assert law.params["alpha"] == pytest.approx(BESIROGLU["alpha"], rel=1e-3)
    told = convert_law(law, table, "n_params")
    assert told.exponents_before == law.exponents
    assert told.exponents_before.n_opt - told.exponents.n_opt > 0.05
    assert told.refitted is not None
    assert told.exponents.n_opt == pytest.approx(told.refitted.n_opt, abs=0.03)
    assert told.exponents.n_opt + told.exponents.d_opt == pytest.approx(1)
    assert 0 < told.rms_loss_error < told.max_loss_error < 0.02
    assert told.max_count_error == 0
    assert told.n_runs == len(table.frame)
    # The params are a law: they predict the runs to within the error told.
    frame = table.frame
    vector = get_law("chinchilla").as_vector(told.params)
    predicted = get_law("chinchilla").predict(vector, frame["n_params"].to_numpy(), frame["n_tokens"].to_numpy())
    assert np.abs(predicted / frame["loss"] - 1).max() == pytest.approx(told.max_loss_error, abs=1e-5)


def test_the_rule_matters_little_where_embeddings_are_few() -> None:
    table = ladder_table("n_params_non_embedding", vocab_size=64)
    law = fit(table, counting="n_params_non_embedding", bootstrap=0)
    told = convert_law(law, table, "n_params")
    assert abs(told.exponents.n_opt - law.exponents.n_opt) < 0.01
    assert told.max_loss_error < 1e-3


def test_a_law_converts_where_some_runs_lack_the_count() -> None:
    table = ladder_table("n_params")
    frame = table.frame.copy()
    frame.loc[frame["d_model"] == 384, "n_params_matmul"] = np.nan
    law = fit(table, bootstrap=0)
    told = convert_law(law, replace(table, frame=frame), "n_params_matmul")
    whole = convert_law(law, table, "n_params_matmul")
    assert 0 < told.max_count_error < 0.02
    assert told.exponents.n_opt == pytest.approx(whole.exponents.n_opt, abs=0.02)


def test_a_refused_refit_is_said() -> None:
    """Two of three sizes without the count: the law still converts by the form, and the refit says what it lacks."""
    table = ladder_table("n_params")
    law = fit(table, bootstrap=0)
    frame = table.frame.copy()
    frame.loc[~frame["d_model"].isin([128, 1024]), "n_params_matmul"] = np.nan
    told = convert_law(law, replace(table, frame=frame), "n_params_matmul")
    assert told.refitted is None
    assert told.refused is not None
    assert "2 model sizes" in told.refused


def test_the_refit_is_of_the_runs_that_the_law_was_fitted_to() -> None:
    """A run dropped as an outlier would pull a least-squares refit far off."""
    table = ladder_table("n_params")
    frame = table.frame.copy()
    frame.loc[3, "loss"] *= 1.5
    law = fit(replace(table, frame=frame), objective="lsq", drop_outliers=True, bootstrap=0)
    assert [run.run_id for run in law.dropped] == [frame["run_id"][3]]
    clean = convert_law(fit(table, objective="lsq", bootstrap=0), table, "n_params_matmul")
    told = convert_law(law, replace(table, frame=frame), "n_params_matmul")
    assert told.refitted is not None
    assert clean.refitted is not None
    assert told.refitted.n_opt == pytest.approx(clean.refitted.n_opt, abs=0.003)


def test_plain_6nd_against_the_exact_count() -> None:
    table = ladder_table("n_params")
    law = fit(table, bootstrap=0)
    change = against_six_nd(law, table, budgets=[1e19, 1e21])
    smallest = ladder_model(WIDTHS[0])
    assert change.exact_over_6nd_G[0] == pytest.approx(
        training_flops_per_token(smallest) / (6 * count_parameters(smallest).n_params)
    )
    for row in change.changes:
        assert row.n_opt_6nd * row.d_opt_6nd * 6 == pytest.approx(row.flops)
        assert row.n_opt_exact != pytest.approx(row.n_opt_6nd, rel=1e-3)
    default = against_six_nd(law, table)
    assert default.changes[0].flops == pytest.approx(table.frame["flops"].max())
    assert default.changes[1].flops == pytest.approx(10 * table.frame["flops"].max())
    counted = replace(table, frame=table.frame.assign(flops=6 * table.frame["n_params"] * table.frame["n_tokens"]))
    same = against_six_nd(law, counted, budgets=[1e20]).changes[0]
    assert same.n_opt_exact == pytest.approx(same.n_opt_6nd, rel=1e-6)


def test_bad_input_is_refused_by_name() -> None:
    table = ladder_table(counts=("n_params",))
    with pytest.raises(UserError, match="no counting rule is called 'params'"):
        convert(table, 1e9, "params", "n_params")
    with pytest.raises(UserError, match="0 sizes with both n_params and n_params_matmul"):
        convert(table, 1e9, "n_params", "n_params_matmul")
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="a count to convert"):
            convert(ladder_table(), bad, "n_params", "n_params_matmul")
    frame = ladder_table().frame
    frame.loc[frame["d_model"] == 128, "n_params_non_embedding"] = 1e12
    with pytest.raises(UserError, match="don't count one family"):
        convert(RunTable(source="odd", frame=frame), 1e9, "n_params", "n_params_non_embedding")
    with pytest.raises(UserError, match="no FLOPs of its own"):
        against_six_nd(fit(ladder_table(), bootstrap=0), RunTable(source="bare", frame=frame.assign(flops=np.nan)))


def test_a_change_of_rule_in_words_and_as_a_document() -> None:
    table = ladder_table("n_params_non_embedding")
    law = fit(table, counting="n_params_non_embedding", bootstrap=0)
    told = convert_law(law, table, "n_params")
    said = describe_conversion(told)
    assert f"C^{law.exponents.n_opt:.3f} counting n_params_non_embedding" in said[0]
    assert f"C^{told.exponents.n_opt:.3f}" in said[0]
    assert "Fitted anew in n_params" in said[1]
    assert len(said) == 2
    document = json.loads(json.dumps(conversion_json(told), allow_nan=False))
    assert document["params"] == told.params
    assert document["refitted"]["n_opt"] == pytest.approx(told.exponents.n_opt, abs=0.03)
    refused = describe_conversion(replace(told, refitted=None, refused="too few sizes", max_count_error=0.01))
    assert "too few sizes" in refused[1]
    assert "within 1.00%" in refused[2]
    change = against_six_nd(law, table, budgets=[1e20])
    words = describe_flops_rule(change)
    assert len(words) == 2
    assert "At 1e20 FLOPs N_opt is" in words[1]
    written = json.loads(json.dumps(flops_rule_json(change), allow_nan=False))
    assert len(written["sizes"]) == len(WIDTHS)
    assert written["optima"][0]["n_opt_6nd"] == change.changes[0].n_opt_6nd
