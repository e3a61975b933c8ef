"""The search for shapes over fakes: the front, going on after a crash, shapes that divide, importances of a known function."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from optuna.distributions import IntDistribution

from llama.config import ModelConfig
from llama.errors import UserError
from llama.records import InferenceCost, InferencePoint, Quantiles
from sweeps.tuning.importances import importances
from sweeps.tuning.pareto import pareto_front
from sweeps.tuning.shape_search import ShapeTrials, search_shapes
from sweeps.tuning.shape_study import distinct, shape_words, study_of
from sweeps.tuning.suggestions import open_journal
from tests.sweeps.examples import CPU, FACTS, sweep
from tests.sweeps.tuning.surface import FakeTraining


def trials_of(**shape) -> ShapeTrials:
    search = {
        "widths": [16, 24, 32],
        "layers": [1, 2, 4],
        "heads": [1, 2, 4],
        "queries_per_kv_head": [1, 2],
        "ff_ratios": [2.0, 4.0],
        "trials": 12,
    }
    spec = sweep(
        ladder__widths=[32],
        budgets={"flops": [2e11]},
        recipe={"name": "width_and_horizon"},
        tune={"shape": search | shape},
    )
    return ShapeTrials(spec=spec, corpus=FACTS, numerics=CPU, search=spec.tune.shape)


def cost_of(model: ModelConfig) -> InferenceCost:
    time = Quantiles(median=1e-3, p5=1e-3, p95=1e-3)
    point = InferencePoint(
        batch=4,
        ttft_seconds=time,
        tpot_seconds=time,
        prefill_tokens_per_second=1e5,
        decode_tokens_per_second=1e6 / (model.d_model * model.n_layers),
    )
    return InferenceCost(
        device="cpu", threads=1, dtype="float32", prompt_tokens=4, output_tokens=4, repetitions=5, weight_bytes=1,
        kv_bytes_per_token=1, points=[point],
    )  # fmt: skip


class FakeBench:
    def __init__(self) -> None:
        self.measured: list[str] = []

    def __call__(
        self, name: str, shapes: Mapping[str, ModelConfig], run_keys: Mapping[str, Sequence[str]]
    ) -> dict[str, InferenceCost]:
        self.measured.append(name)
        return {shape: cost_of(model) for shape, model in shapes.items()}


def searched(path: Path, training: FakeTraining, **shape):
    trials = trials_of(**shape)
    study = trials.open_study(open_journal(path), seed=0)
    return trials, study, search_shapes(trials, study, training, FakeBench())


def test_every_trial_is_a_shape_that_trains_at_the_same_compute(tmp_path: Path) -> None:
    trials, _, shaped = searched(tmp_path / "journal", FakeTraining(), n_params={"low": 15_000, "high": 60_000})
    assert [one.number for one in shaped] == list(range(-1, 12))
    for one in shaped[1:]:
        assert one.d_model % (2 * one.n_heads) == 0
        assert one.n_heads % one.n_kv_heads == 0
        assert 15_000 <= one.n_params <= 60_000
    base = shaped[0]
    assert base.decode_cost == 1.0
    assert {one.tokens for one in shaped if one.n_params == base.n_params} <= {base.tokens}
    assert all((one.tokens < base.tokens) == (one.n_params > base.n_params) for one in shaped if one is not base)
    config = trials.configs(trials.reference)[0]
    assert config.parent is None


def test_the_document_holds_the_front_and_names_the_evaluator(tmp_path: Path) -> None:
    trials, study, shaped = searched(tmp_path / "journal", FakeTraining())
    document = study_of(trials, study, shaped, FakeBench(), seed=0)
    finished = [one for one in shaped if one.loss is not None]
    for one in document.front:
        assert not any(
            other.loss <= one.trial.loss
            and other.decode_cost <= one.trial.decode_cost
            and (other.loss, other.decode_cost) != (one.trial.loss, one.trial.decode_cost)
            for other in finished
        )
    assert "fANOVA" in document.evaluator
    assert document.cost_importances[0].parameter in ("width", "layers")
    assert sum(one.share for one in document.cost_importances) == pytest.approx(1)
    assert shape_words(document.reference.trial) in document.headline


def test_after_a_crash_the_same_shapes_are_suggested(tmp_path: Path) -> None:
    _, _, undisturbed = searched(tmp_path / "whole", FakeTraining())
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "torn", FakeTraining(dies_after=6))
    after = FakeTraining()
    _, _, resumed = searched(tmp_path / "torn", after)
    assert resumed == undisturbed
    assert len(after.trained) < 13


def test_a_space_without_a_shape_of_the_size_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.shape\.n_params"):
        searched(tmp_path / "journal", FakeTraining(), n_params={"low": 10**9, "high": 10**10})


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(3.0, 1.0), (2.0, 2.0), (2.5, 2.0), (2.0, 3.0), (1.0, 4.0)], [0, 1, 4]),
        ([(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)], [0, 1]),
        ([], []),
    ],
)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front


def test_a_shape_that_was_measured_several_times_counts_once_with_the_median() -> None:
    trials = trials_of()
    one = trials.shaped(3, trials.reference).model_copy(update={"loss": 3.0})
    rows = [one.model_copy(update={"number": k, "decode_cost": cost}) for k, cost in ((3, 0.2), (5, 0.9), (7, 0.4))]
    assert distinct(rows) == [rows[0].model_copy(update={"decode_cost": 0.4})]


def test_importances_find_the_parameter_that_matters() -> None:
    space = {"a": IntDistribution(0, 4), "b": IntDistribution(0, 4), "one": IntDistribution(0, 0)}
    rows = [{"a": a, "b": b, "one": 0} for a in range(5) for b in range(5)]
    found = importances(space, rows, [10.0 * row["a"] + row["b"] for row in rows], seed=0, resamples=5)
    assert [one.parameter for one in found] == ["a", "b"]
    assert found[0].share > 0.95
    assert found[0].ci90[0] > 0.9


def test_a_crash_between_two_tells_has_nothing_measured_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = trials_of()
    bench = FakeBench()
    study = trials.open_study(open_journal(tmp_path / "journal"), seed=0)
    tell = study.tell

    def dies_at_the_second(number: int, *told) -> None:
        if number == 1:
            raise KeyboardInterrupt
        tell(number, *told)

    monkeypatch.setattr(study, "tell", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        search_shapes(trials, study, FakeTraining(), bench)
    assert bench.measured == ["t0"]
    again = FakeBench()
    search_shapes(trials, trials.open_study(open_journal(tmp_path / "journal"), seed=0), FakeTraining(), again)
    assert again.measured == ["t0", "t2", "t4", "t6", "t8", "t10"]


def test_the_front_is_measured_under_a_name_that_files_may_have(tmp_path: Path) -> None:
    trials, study, shaped = searched(tmp_path / "journal", FakeTraining())
    bench = FakeBench()
    study_of(trials, study, shaped, bench, seed=0)
    (name,) = bench.measured
    assert len(name) < 30


def test_a_search_of_which_every_shape_diverged_says_so(tmp_path: Path) -> None:
    trials, study, shaped = searched(tmp_path / "journal", FakeTraining())
    lost = [one.model_copy(update={"state": "diverged", "loss": None}) if one.number >= 0 else one for one in shaped]
    with pytest.raises(UserError, match="all 12 shapes diverged"):
        study_of(trials, study, lost, FakeBench(), seed=0)


def test_the_reference_on_the_front_is_no_shape_of_the_search(tmp_path: Path) -> None:
    trials, study, shaped = searched(tmp_path / "journal", FakeTraining())
    best = [one.model_copy(update={"loss": 0.5, "decode_cost": 0.01}) if one.number < 0 else one for one in shaped]
    document = study_of(trials, study, best, FakeBench(), seed=0)
    assert document.headline.startswith(f"0 of {document.shapes} shapes are on the front, and so is the reference")
