"""Names of clusters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.accelerators import ACCELERATORS
from llama.errors import UserError
from sweeps.hardware.named_cluster import CORES_PER_GPU, parse_cluster

CARDS = st.sampled_from([card.name for card in ACCELERATORS])


@pytest.mark.parametrize(
    ("name", "device", "nodes"),
    [
        ("64xH100", "H100", (8,) * 8),
        ("1xL4", "L4", (1,)),
        ("4xh100", "H100", (4,)),
        ("20xA100-40GB", "A100-40GB", (8, 8, 4)),
        ("2x8xH200", "H200", (8, 8)),
        ("3x4xa100-80gb", "A100-80GB", (4, 4, 4)),
    ],
)
def test_names(name, device, nodes):
    cluster = parse_cluster(name)
    assert (cluster.accelerator.name, cluster.node_gpus) == (device, nodes)
    assert [(node.gpus, node.cpus) for node in cluster.nodes()] == [(gpus, gpus * CORES_PER_GPU) for gpus in nodes]


def test_a_layout_in_words():
    assert parse_cluster("20xH100").layout == "2 nodes of 8 and one of 4, 12 cores a GPU"
    assert parse_cluster("8xH100").layout == "1 node of 8, 12 cores a GPU"


@given(st.integers(1, 100_000), CARDS)
def test_gpus_lie_on_full_nodes_and_one_with_the_rest(gpus, card):
    cluster = parse_cluster(f"{gpus}x{card}")
    assert cluster.gpus == gpus
    assert set(cluster.node_gpus[:-1]) <= {8}
    assert 1 <= cluster.node_gpus[-1] <= 8
    assert len({node.id for node in cluster.nodes()}) == len(cluster.node_gpus)


@given(st.integers(1, 200), st.integers(1, 64), CARDS)
def test_the_name_means_the_cluster(nodes, gpus, card):
    cluster = parse_cluster(f"{nodes}x{gpus}x{card}")
    assert cluster.node_gpus == (gpus,) * nodes
    assert parse_cluster(cluster.name) == cluster
    assert parse_cluster(cluster.name.upper()) == cluster


@given(st.text(max_size=20).filter(lambda text: "x" not in text.lower()))
def test_anything_else_is_refused_with_the_cards_that_are_known(text):
    with pytest.raises(UserError, match=r"--cluster is .* A100-40GB"):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("8xA100", "did you mean A100-80GB or A100-40GB"),
        ("8xH10", "did you mean 'H100'"),
        ("H100", "64xH100"),
        ("0xH100", "64xH100"),
        ("8x", "64xH100"),
        ("100001xH100", "100,000 GPUs at most"),
        ("2000x64xH100", "100,000 GPUs at most"),
    ],
)
def test_refusals_say_what_is_right(name, hint):
    with pytest.raises(UserError, match=hint):
        parse_cluster(name)
