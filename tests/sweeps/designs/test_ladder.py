"""Shapes from a width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.accounting import count_parameters
from sweeps.designs.ladder import DEPTHS, heads_for_width, layers_for_width, model_for_width

even_widths = st.integers(1, 5000).map(lambda half: 2 * half)


@pytest.mark.parametrize(
    ("width", "n_params"),
    [(16, 23_120), (24, 38_520), (32, 72_928), (48, 132_432), (64, 266_816), (80, 400_080)],
)
def test_tiny_ladder(width, n_params):
    model = model_for_width(width, vocab_size=512, context_length=128)
    assert count_parameters(model).n_params == n_params
    assert model.n_layers == 2 + width // 32


@pytest.mark.parametrize(("width", "billions"), [(4096, 6.738), (5120, 13.016), (6656, 32.529), (8192, 65.286)])
def test_llamas_own_sizes_lie_on_the_ladder(width, billions):
    model = model_for_width(width, vocab_size=32_000, context_length=2048)
    assert count_parameters(model).n_params / 1e9 == pytest.approx(billions, abs=5e-4)
    assert model.d_head == 128
    assert (model.rope_theta, model.norm_eps, model.tied_head) == (10_000, 1e-5, False)


@pytest.mark.parametrize(("width", "d_head"), [(24, 12), (48, 16), (240, 16), (256, 64), (768, 64), (2048, 128)])
def test_heads(width, d_head):
    assert width // heads_for_width(width) == d_head


@given(even_widths)
def test_every_even_width_has_a_shape(width):
    model = model_for_width(width, vocab_size=512, context_length=128)
    assert model.d_model == width
    assert model.d_ff >= 8 * width / 3
    assert model.n_kv_heads == model.n_heads


@given(even_widths, even_widths)
def test_wider_is_never_shallower_or_smaller(one, other):
    narrow, wide = sorted((one, other))
    small, large = (model_for_width(width, vocab_size=512, context_length=128) for width in (narrow, wide))
    assert small.n_layers <= large.n_layers
    assert count_parameters(small).n_params <= count_parameters(large).n_params


@pytest.mark.parametrize(("width", "layers"), [*DEPTHS, (16_384, 160)])
def test_depth_passes_through_the_published_shapes(width, layers):
    assert layers_for_width(width) == layers


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="width 33 has no even head size"):
        heads_for_width(33)
