"""A command that isn't there is told before anything runs."""

from pathlib import Path

import pytest

from llama.errors import UserError
from sweeps.trainer_command.child import Child
from sweeps.trainer_command.require_command import require_command


def test_what_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "train.sh").touch(mode=0o755)
    for command in (["python", "train.py", "--fast"], ["python", "-m", "anything"], ["./train.sh"], ["env", "nowhere"]):
        require_command(command, cwd=tmp_path)


@pytest.mark.parametrize("command", [["python", "missing.py"], ["./missing.sh"], ["no-such-program", "x"]])
def test_what_is_not_there_is_named(command: list[str], tmp_path: Path) -> None:
    missing = next(part for part in command if part != "python").removeprefix("./")
    with pytest.raises(UserError, match=rf"trainer.command: `.*` can't be run: there is no .*{missing}"):
        require_command(command, cwd=tmp_path)


def test_a_missing_folder_is_named_and_leaves_no_pipe_open(tmp_path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(UserError, match=r"runs in the folder of the sweep's YAML, .*gone, which isn't there"):
        Child(["true"], folder=tmp_path, cwd=tmp_path / "gone", environment={})
    (tmp_path / "stdout.log").mkdir()
    with pytest.raises(IsADirectoryError):
        Child(["true"], folder=tmp_path, cwd=tmp_path, environment={})
    assert len(list(Path("/dev/fd").iterdir())) == before
