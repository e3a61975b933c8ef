"""The four LLaMA sizes have the parameters that the paper prints, to the last one."""

import pytest
import torch

from llama.accounting import count_parameters
from llama.model import Llama
from llama.released_sizes import ReleasedSize, released_size

# The sums that the released weights hold; the paper prints 6.7B, 13.0B, 32.5B and 65.2B.
PARAMETERS: dict[ReleasedSize, int] = {
    "7B": 6_738_415_616,
    "13B": 13_015_864_320,
    "33B": 32_528_943_616,
    "65B": 65_285_660_672,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_and_the_closed_form_count_what_was_released(name: ReleasedSize) -> None:
    config = released_size(name)
    with torch.device("meta"):
        model = Llama(config)
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]
    assert count_parameters(config).n_params == PARAMETERS[name]
    assert config.d_head == 128


def test_a_vocabulary_adds_its_embedding_and_head() -> None:
    more = count_parameters(released_size("13B", vocab_size=32_001)).n_params
    assert more - PARAMETERS["13B"] == 2 * 5120
