"""What a person may write in a sweep's YAML, and how every mistake is named."""

from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweeps
from llama.errors import UserError
from sweeps.designs.budgets import Wanted
from sweeps.designs.spec import SweepSpec, load_sweep
from sweeps.yaml_lines import parse_record
from tests.sweeps.examples import sweep

GOOD = """\
name: mine
corpus:
  domains:
    code: {stdlib: code, weight: 1}
    prose: {stdlib: prose, weight: 3}
ladder:
  widths: [16, 32]
  context_length: 128
budgets:
  flops: [1e11, 2e11]
recipe:
  name: inverse_width
evaluation:
  validation_tokens: 65_536
"""


def parse(text: str) -> SweepSpec:
    return parse_record(dedent(text), SweepSpec, source="my.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(UserError) as error:
        parse(text)
    return str(error.value).splitlines()


def test_a_good_sweep():
    spec = parse(GOOD)
    assert spec.budgets.values == [1e11, 2e11]
    assert spec.weights == {"code": 0.25, "prose": 0.75}
    assert (spec.precision, spec.compile, spec.seeds.base, spec.resources.gpus) == ("auto", "auto", [0], None)
    assert spec.inference is not None


@pytest.mark.parametrize(
    "study", sorted(Path(sweeps.__file__).parent.glob("studies/*.yaml")), ids=lambda path: path.stem
)
def test_the_studies_load_and_carry_their_own_name(study):
    assert load_sweep(study).name == study.stem


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (7, "  widhts: [16, 32]", "line 7: ladder.widhts: unknown key; did you mean 'widths'?"),
        (1, "nmae: mine", "line 1: nmae: unknown key; did you mean 'name'?"),
        (
            4,
            "    code: {stdlib: code, weight: 1, weigth: 2}",
            "line 4: corpus.domains.code.weigth: unknown key; did you mean 'weight'?",
        ),
        (4, "    code: {stdlib: cod, weight: 1}", "line 4: corpus.domains.code.stdlib: found 'cod' (text); 'code' or"),
        (7, '  widths: [16, "32"]', "line 7: ladder.widths[1]: found '32' (text); a whole number is right"),
        (7, "  widths: [16, 33]", "line 7: ladder.widths[1]: width 33 has no even head size: make it even"),
        (7, "  widths: [16, 16]", "line 7: ladder.widths: width 16 stands twice"),
        (7, "  widths: 16", "line 7: ladder.widths: found 16; a list is right"),
        (7, "  sizes: [7B, 8B]", "line 7: ladder.sizes[1]: found '8B' (text); '7B', '13B', '33B' or '65B' is right"),
        (7, "  sizes: [7B, 7B]", "line 7: ladder.sizes: size 7B stands twice"),
        (7, "  widths: [16]\n  sizes: [7B]", "line 6: ladder: give one of widths, shapes and sizes"),
        (7, "  widths: []", "line 7: ladder.widths: found an empty list; a list of at least 1 is right"),
        (8, "  context_length: 127.5", "line 8: ladder.context_length: found 127.5; a whole number is right"),
        (8, "  context_length: 0", "line 8: ladder.context_length: found 0; a number from 2 is right"),
        (10, "  flops: [1e11, -2e11]", "line 10: budgets.flops[1]: found -2e11; a number above 0 is right"),
        (10, "  flops: [1e11, .inf]", "line 10: budgets.flops[1]: found '.inf' (text); a number is right"),
        (10, "  flops: [1e11, 1e999]", "line 10: budgets.flops[1]: found 1e999; a finite number is right"),
        (10, "  flops: [1e11, 1e11]", "line 10: budgets.flops: budget 1e+11 stands twice"),
        (10, "  tokens: [2.5]", "line 10: budgets.tokens[0]: found 2.5; a whole number is right"),
        (10, "  flops:", "line 9: budgets: exactly one of flops, tokens, tokens_per_parameter is right; found none"),
        (12, "  name: inverse_widht", "line 12: recipe.name: found 'inverse_widht'; one of width_and_horizon, inver"),
        (12, "  name: llama\n  reference_budget: 1e11", "line 13: recipe.reference_budget: a cosine run's horizon is"),
        (14, "  validation_tokens: yes", "line 14: evaluation.validation_tokens: found true; a whole number is right"),
        (1, "name: a/b", "line 1: name: found 'a/b'; letters, digits"),
        (
            1,
            "name: mine\nprecision: fp16",
            "line 2: precision: found 'fp16' (text); 'auto', 'float32' or 'bfloat16' is",
        ),
        (1, "name: mine\nname: yours", "line 2: name: the key stands twice; the first is in line 1"),
        (
            1,
            "name: mine\nseeds: {extra: [{seeds: [1], widths: [48]}]}",
            "seeds.extra[0].widths[0]: found width 48; one of 16, 32",
        ),
        (
            1,
            "name: mine\nseeds:\n  extra:\n    - {seeds: [1], widths: [16], budgets: [3e11]}",
            "line 4: seeds.extra[0].budgets[0]: found 3e+11; one of 1e+11, 2e+11 is right",
        ),
        (
            1,
            "name: mine\ninference: {prompt_tokens: 100}",
            "line 2: inference: prompt_tokens + output_tokens is 164; at most",
        ),
        (1, "name: mine\ninference: on", "line 2: inference: found true; a block of keys is right"),
        (
            1,
            "name: !!python/object:os.system mine",
            "line 1: name: the tag tag:yaml.org,2002:python/object:os.system is not",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_right(line, changed, message):
    lines = GOOD.splitlines()
    lines[line - 1] = changed
    found = problems("\n".join(lines))
    assert any(message in problem for problem in found), found
    assert all(problem.startswith("my.yaml, line ") for problem in found)


def test_all_problems_come_at_once_in_order_of_lines():
    found = problems(
        """\
        name: my sweep
        corpus:
          domains:
            code: {stdlib: code, weight: 0}
        ladder: {widths: [16, 17], context_length: 128}
        budgets: {flops: [1e11], by_width: {20: [1e11]}}
        recipe: {name: best}
        inference: {prompt_tokens: none}
        """
    )
    assert [problem.split(": ")[1] for problem in found] == [
        "evaluation",
        "name",
        "corpus.domains.code.weight",
        "ladder.widths[1]",
        "recipe.name",
        "inference.prompt_tokens",
    ]


def test_checks_between_blocks_do_not_hide_each_other():
    changed = GOOD.replace("name: mine", "name: my sweep").replace(
        "[1e11, 2e11]", "[1e11, 2e11]\n  by_width: {20: [1e11]}"
    )
    found = problems(changed + "inference: {prompt_tokens: 128}\n")
    assert [problem.split(": ")[1] for problem in found] == ["name", "budgets.by_width[20]", "inference"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: found nothing; a block of keys is right: name, corpus"),
        ("- 1\n- 2\n", "line 1: found a list; a block of keys is right"),
        ("name: [1, 2\nbudgets: 3\n", "line 2: not valid YAML"),
        ("name: a\n\tbad: b\n", "line 2: not valid YAML"),
        ("a: &x [*x]\n", "a[0]: an alias (*) that contains itself"),
        ("[1]: 2\n", "a key must be a plain word"),
        ("name: a\n---\nname: b\n", "not valid YAML"),
        ("name: \x00\n", "not valid YAML"),
        ("[" * 1200, "nested too deep"),
    ],
)
def test_files_that_are_no_sweep(text, message):
    assert any(message in problem for problem in problems(text))


def test_aliases_of_aliases_end():
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert any("more than 100,000 values" in problem for problem in problems(bomb))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        load_sweep(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml is not UTF-8 text"):
        load_sweep(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e11", 1e11), ("1E+11", 1e11), ("2.5e6", 2.5e6), ("100_000_000_000", 1e11), (".5e12", 5e11), ("010", 10.0)],
)
def test_numbers_are_numbers(written, value):
    assert parse(GOOD.replace("[1e11, 2e11]", f"[{written}]")).budgets.values == [value]


@given(st.integers(1, 9999), st.integers(0, 12))
def test_whole_numbers_in_scientific_notation_are_whole(digits, exponent):
    spec = parse(GOOD.replace("name: inverse_width", f"name: inverse_width\n  batch_tokens: {digits}e{exponent}"))
    assert spec.recipe.batch_tokens == digits * 10**exponent


def test_a_quoted_number_is_text():
    assert "found '1e11' (text); a number is right" in problems(GOOD.replace("1e11", '"1e11"'))[0]


def test_off_and_auto():
    spec = parse(GOOD + "inference: off\nresources: {gpus: auto}\n")
    assert spec.inference is None
    assert spec.resources.gpus is None
    assert parse(GOOD + "resources: {gpus: 0.25}\n").resources.gpus == 0.25


def test_shapes_in_full():
    shapes = [
        {"d_model": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_ff": 128},
        {"d_model": 64, "n_layers": 2, "n_heads": 1},
    ]
    models = sweep(ladder__widths=None, ladder__shapes=shapes).ladder.models(512)
    assert models["w64L4"].n_kv_heads == 2
    assert models["w64L2"].d_ff == 176


def test_the_digest_is_of_what_the_file_says():
    first_block, rest = GOOD.split("corpus:", 1)
    assert parse("corpus:" + rest + first_block).digest == parse(GOOD).digest
    assert parse("# a comment\n" + GOOD).digest == parse(GOOD).digest
    assert parse(GOOD.replace("weight: 3", "weight: 2")).digest != parse(GOOD).digest


def test_seeds_of_a_cell():
    spec = sweep(
        seeds={
            "base": [0],
            "extra": [{"seeds": [1, 2], "widths": [16], "budgets": [1e11]}, {"seeds": [2, 3], "widths": [16]}],
        }
    )
    assert spec.seeds_for("w16", 16, Wanted("flops", 1e11)) == [0, 1, 2, 3]
    assert spec.seeds_for("w16", 16, Wanted("flops", 2e11)) == [0, 2, 3]
    assert spec.seeds_for("w32", 32, Wanted("flops", 1e11)) == [0]
    assert spec.seeds_for("w16", 16, Wanted("tokens", 1_000_000, seed=7)) == [7]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  validation_tokens: 65_536",
            "  validation_tokens: 10",
            "found 10; from 256, a sequence of context_length a domain",
        ),
        ("  flops: [1e11, 2e11]", "  flops: [1e60]", "budgets.flops[0]: found 1e60; a number up to 1e+30 is right"),
        (
            "  flops: [1e11, 2e11]",
            "  flops: [1e11]\n  by_width: {16: [1e60]}",
            "line 11: budgets.by_width[16][0]: found 1e+60; a number up to 1e+30 is right",
        ),
        (
            "  name: inverse_width",
            "  name: inverse_width\n  beta1: 1.5",
            "recipe.beta1: found 1.5; a number below 1 is right",
        ),
        (
            "    code: {stdlib: code, weight: 1}\n    prose: {stdlib: prose, weight: 3}",
            "    {}",
            "corpus.domains: found an empty block; at least one domain is right",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_problem(old, new, message):
    (problem,) = problems(GOOD.replace(old, new))
    assert message in problem


def test_a_misspelt_key_brings_no_problem_of_its_default():
    text = GOOD.replace("context_length: 128", "context_length: 64") + "inferense: off\n"
    (problem,) = problems(text)
    assert problem.endswith("inferense: unknown key; did you mean 'inference'?")
    assert "prompt_tokens + output_tokens is 128" in problems(text.replace("inferense: off", "seeds: {base: [0]}"))[0]
