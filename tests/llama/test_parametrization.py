"""CompleteP: its table's scales, the multipliers folded exactly, activations that move alike at every shape."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.coordinate_check import BASE_LAYERS, BASE_WIDTH, DEPTHS, LOGITS, STREAM, WIDTHS, Change, changes, slope
from llama.config import ModelConfig, Transfer
from llama.errors import UserError
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.parametrization import Scales, weight_scales
from tests.llama.shapes import tiny_model, tiny_recipe

#: A model at three times the width and depth of its base.
BASE = Transfer(base_width=32, base_layers=2)
WIDTH, DEPTH = 3.0, 3.0
LARGE = tiny_model(d_model=96, n_layers=6, n_heads=12, n_kv_heads=6, d_ff=144)

RESIDUAL_WRITERS = ("attention.out.weight", "feed_forward.down.weight")


def test_scales_are_table_1_with_its_multipliers_folded():
    """Dey et al. 2025, table 1 at alpha = 1, then rate and deviation times c, decay and epsilon over c, where the paper has a
    multiplier c: 1/m_L after the residual writers, 1/m_N after the head."""
    expected = {
        "embedding.weight": Scales(0.02, 1, 0, 1 / WIDTH),
        "blocks.4.attention_norm.weight": Scales(None, 1, 0, 1 / (WIDTH * DEPTH)),
        "blocks.4.attention.qkv.weight": Scales(96**-0.5, 1 / WIDTH, WIDTH, 1 / (WIDTH * DEPTH)),
        "blocks.4.attention.out.weight": Scales(
            (32 * WIDTH) ** -0.5 * 4**-0.5 / DEPTH, 1 / (WIDTH * DEPTH), WIDTH * DEPTH, 1 / WIDTH
        ),
        "blocks.4.feed_forward.gate_up.weight": Scales(96**-0.5, 1 / WIDTH, WIDTH, 1 / (WIDTH * DEPTH)),
        "blocks.4.feed_forward.down.weight": Scales(
            144**-0.5 * 4**-0.5 / DEPTH, 1 / (WIDTH * DEPTH), WIDTH * DEPTH, 1 / WIDTH
        ),
        "norm.weight": Scales(None, 1, 0, 1 / WIDTH),
        "head.weight": Scales(32**-0.5 / WIDTH, 1 / WIDTH, WIDTH, 1),
    }
    for name, scales in expected.items():
        found = weight_scales(name, LARGE, BASE)
        assert (found.deviation is None) == (scales.deviation is None)
        assert found[1:] == pytest.approx(scales[1:])
        assert found.deviation is None or found.deviation == pytest.approx(scales.deviation)


@given(st.integers(1, 6).map(lambda heads: 8 * heads), st.integers(1, 9), st.sampled_from([1, 2]))
@settings(max_examples=30)
def test_at_its_base_completep_is_the_standard(width: int, layers: int, share: int) -> None:
    heads = width // 4
    model = tiny_model(d_model=width, n_layers=layers, n_heads=heads, n_kv_heads=heads // share, d_ff=48)
    base = Transfer(base_width=width, base_layers=layers)
    for name, _ in Llama(model).named_parameters():
        assert weight_scales(name, model, base) == weight_scales(name, model, None)


def test_the_weights_are_drawn_with_these_deviations():
    model = Llama(LARGE)
    model.initialise(torch.Generator().manual_seed(0), BASE)
    for name, weight in model.named_parameters():
        deviation = weight_scales(name, LARGE, BASE).deviation
        if deviation is None:
            assert weight.eq(1).all()
        else:
            assert weight.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(2 * weight.numel()))


def test_a_tied_head_is_refused():
    model = Llama(tiny_model(tied_head=True))
    with pytest.raises(UserError, match=r"tied_head.*untie the head"):
        model.initialise(torch.Generator().manual_seed(0), BASE)


@pytest.mark.parametrize("forgotten", [None, "rate", "decay", "epsilon"])
def test_folding_is_exact(forgotten: str | None) -> None:
    """Ten steps of AdamW, decay and a coarse epsilon included: the model with the paper's multipliers, trained by table 1 as
    printed, computes what the plain one does with them folded. Leave one of the folds out and it does not."""
    recipe = tiny_recipe(peak_lr=1e-2, weight_decay=2.0, eps=1e-3, transfer=BASE)
    plain = Llama(LARGE).double()
    plain.initialise(torch.Generator().manual_seed(0), BASE)
    explicit = Explicit(plain)
    optimizers = (make_optimizer(plain, recipe), explicit.optimizer(recipe.peak_lr, recipe.weight_decay, recipe.eps))
    if forgotten is not None:
        _unfold(optimizers[0], plain, forgotten)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        tokens_BS = torch.randint(300, (4, 17), generator=generator)
        for model, optimizer in zip((plain, explicit), optimizers, strict=True):
            F.cross_entropy(model(tokens_BS[:, :-1]).flatten(0, 1), tokens_BS[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    probe_BT = torch.randint(300, (4, 16), generator=generator)
    with torch.no_grad():
        difference = (plain(probe_BT) - explicit(probe_BT)).abs().max().item()
    assert (difference < 1e-5) == (forgotten is None), difference


class Explicit(torch.nn.Module):
    """A LLaMA with the paper's forward multipliers, from a plain one that has them folded."""

    def __init__(self, plain: Llama):
        super().__init__()
        self.model = copy.deepcopy(plain)
        for name, module in self.model.named_modules():
            multiplier = self.multiplier(f"{name}.weight")
            if multiplier != 1:
                module.weight.data /= multiplier
                module.register_forward_hook(lambda module, inputs, y, c=multiplier: c * y)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT)

    @staticmethod
    def multiplier(name: str) -> float:
        return 1 / DEPTH if name.endswith(RESIDUAL_WRITERS) else 1 / WIDTH if name == "head.weight" else 1.0

    def optimizer(self, lr: float, weight_decay: float, eps: float) -> torch.optim.AdamW:
        """Table 1 as printed; norms and embedding without decay, as everywhere here."""
        groups = []
        for name, parameter in self.model.named_parameters():
            in_block = name.startswith("blocks.")
            group = {"params": [parameter], "lr": lr, "weight_decay": 0.0, "eps": eps / WIDTH}
            if in_block:
                group["eps"] = eps / (WIDTH * DEPTH)
            if in_block and parameter.ndim == 2:
                group |= {"lr": lr / WIDTH, "weight_decay": weight_decay * WIDTH}
            if name == "head.weight":
                group["weight_decay"] = weight_decay
            groups.append(group)
        return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def _unfold(optimizer: torch.optim.AdamW, model: Llama, what: str) -> None:
    """Take one of the folds out of the groups of the residual writers and the head."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        c = Explicit.multiplier(names[group["params"][0]])
        if what == "rate":
            group["lr"] /= c
            group["weight_decay"] *= c  # the product, by which weights shrink, as it was
        elif what == "decay":
            group["weight_decay"] *= c
        else:
            group["eps"] *= c


def test_activations_move_alike_at_every_width_and_depth():
    """The coordinate check: log-log slopes of the mean change after 6 steps at one base rate, against width 32 to 256 and depth
    2 to 16. CompleteP's are flat; the standard parametrization's are not, so the check can tell."""
    by_width = [(width, BASE_LAYERS) for width in WIDTHS]
    by_depth = [(BASE_WIDTH, depth) for depth in DEPTHS]

    def train(parametrization: str, shapes: list[tuple[int, int]]) -> list[Change]:
        return [
            change
            for width, layers in shapes
            for seed in (0, 1)
            for change in changes(parametrization, width, layers, steps=(6,), seed=seed)
        ]

    for shapes, along in ((by_width, "width"), (by_depth, "layers")):
        completep, standard = train("completep", shapes), train("standard", shapes)
        assert abs(slope(completep, along, STREAM, 6)) < 0.25
        assert abs(slope(completep, along, LOGITS, 6)) < 0.2
        assert slope(standard, along, STREAM, 6) > 0.7
        if along == "width":
            assert slope(standard, along, LOGITS, 6) > 0.2


def test_epsilon_keeps_its_size_beside_the_gradients():
    """At 8 times the base's width each weight's first gradient over its epsilon is the base's, while the gradients outside the
    head, whose epsilon stays, shrank. The final norm's is left out: until the head has learned, its gradient also carries the
    head's smaller start.
    """
    base_model, wide = tiny_model(), tiny_model(d_model=256, d_ff=384, n_heads=32, n_kv_heads=32)
    base = Transfer(base_width=base_model.d_model, base_layers=base_model.n_layers)
    before, after = _first_gradients(base_model, base), _first_gradients(wide, base)
    for name in before.keys() - {"norm.weight"}:
        ratio = after[name] / before[name]
        assert 0.7 < ratio / weight_scales(name, wide, base).epsilon < 1.4, name
        assert name == "head.weight" or ratio < 0.2


def _first_gradients(config: ModelConfig, transfer: Transfer) -> dict[str, float]:
    """Mean absolute gradients of fresh weights, by name."""
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(0), transfer)
    tokens_BS = torch.randint(300, (16, 17), generator=torch.Generator().manual_seed(1))
    F.cross_entropy(model(tokens_BS[:, :-1]).flatten(0, 1), tokens_BS[:, 1:].flatten()).backward()
    return {
        name: weight.grad.abs().mean().item() for name, weight in model.named_parameters() if weight.grad is not None
    }
