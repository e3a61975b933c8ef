from pathlib import Path

import pytest
import torch

from llama.checkpoint import clear_leftovers, load_checkpoint, load_latest, load_weights, save_checkpoint
from llama.errors import UserError
from llama.model import Llama
from llama.optimizer import make_optimizer, training_step
from llama.records import checkpoint_folder, complete_steps
from llama.window import Window
from tests.llama.shapes import tiny_model, tiny_recipe


def trained(steps: int = 3, **shape: int) -> tuple[Llama, torch.optim.AdamW]:
    model = Llama(tiny_model(**shape))
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, tiny_recipe())
    tokens_BS = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        training_step(model, optimizer, tokens_BS, learning_rate=1e-2, clip_norm=1.0)
    return model, optimizer


def save(
    folder: Path,
    model: Llama,
    optimizer: torch.optim.AdamW,
    step: int,
    *,
    window: Window | None = None,
    kept: bool = True,
) -> None:
    mark = {"step": step, "tokens": 64 * step, "journal_bytes": 0, "training_seconds": 1.0}
    save_checkpoint(folder, model, optimizer, window or Window(), kept=kept, **mark)


def assert_same_state(a: tuple[Llama, torch.optim.AdamW], b: tuple[Llama, torch.optim.AdamW]) -> None:
    for x, y in zip(a[0].parameters(), b[0].parameters(), strict=True):
        assert torch.equal(x, y)
        for slot, value in a[1].state[x].items():
            assert torch.equal(value, b[1].state[y][slot])


def test_a_checkpoint_restores_every_bit(tmp_path: Path) -> None:
    saved, fresh = trained(3), trained(0)
    save(tmp_path, *saved, step=3)
    mark = load_checkpoint(tmp_path, 3, *fresh)
    assert mark is not None
    assert mark.tokens == 192
    assert_same_state(saved, fresh)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "COMPLETE"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "pickle"])
def test_a_bad_checkpoint_falls_back_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    good = trained(2)
    save(tmp_path, *good, step=2)
    save(tmp_path, *trained(5), step=5)
    path = checkpoint_folder(tmp_path, 5) / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"flip": flipped, "cut": data[: len(data) // 2], "pickle": b"\x80\x04N."}[damage])
    fresh = trained(0)
    mark = load_latest(tmp_path, *fresh, Window(), at_most_step=5)
    assert mark is not None
    assert mark.step == 2
    assert_same_state(good, fresh)


def test_a_checkpoint_without_its_mark_does_not_exist(tmp_path: Path) -> None:
    save(tmp_path, *trained(2), step=2)
    (checkpoint_folder(tmp_path, 2) / "COMPLETE").unlink()
    assert complete_steps(tmp_path) == []
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_weights(tmp_path, trained(0)[0])


def test_a_disk_that_fills_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, *trained(2), step=2)

    def full_disk(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama.checkpoint._write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, *trained(4), step=4)
    monkeypatch.undo()
    assert complete_steps(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_another_models_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    save(tmp_path, *trained(2), step=2)
    with pytest.raises(UserError, match="holds another model"):
        load_checkpoint(tmp_path, 2, *trained(0, d_ff=64))


def test_a_checkpoint_between_two_log_points_carries_the_window(tmp_path: Path) -> None:
    window, model, optimizer = Window(), *trained(2)
    window.add(torch.tensor(3.0), torch.tensor(1.0))
    window.add(torch.tensor(4.0), torch.tensor(2.0))
    save(tmp_path, model, optimizer, step=2, window=window)
    restored = Window()
    assert load_checkpoint(tmp_path, 2, *trained(0), restored) is not None
    restored.add(torch.tensor(5.0), torch.tensor(6.0))
    assert restored.close() == (4.0, 3.0)
    assert len(restored) == 0


def test_what_killed_attempts_left_is_cleared(tmp_path: Path) -> None:
    for step, kept in ((2, True), (4, False), (6, False)):
        save(tmp_path, *trained(1), step=step, kept=kept)
    half_written = tmp_path / "checkpoints" / ".step-00000008.0123"
    half_written.mkdir()
    (checkpoint_folder(tmp_path, 7)).mkdir()
    clear_leftovers(tmp_path, newest_step=6)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000006"]
