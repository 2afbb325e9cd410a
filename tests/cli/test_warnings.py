"""What a command says of doubtful input."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, only_line

from manifold_core import cli
from manifold_core.cli import process

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


def test_a_warning_is_one_line_without_python(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(120, 5))
    np.save(tmp_path / "units.npy", x * np.array([1000, 1, 1, 1, 1]))
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        command = ["train", "--data", str(tmp_path / "units.npy"), "--out", str(tmp_path / "out"), *SMALL]
        assert cli.main(command) == 0
        assert only_line(capfd.readouterr().err).startswith(
            f"manifold-core: warning: {tmp_path / 'units.npy'}: column 0 varies "
        )
        assert cli.main([*command, "--seed", "-1"]) == 2  # and after an error
    assert warnings.showwarning is shown


def test_a_warning_that_nobody_can_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", refuse)
    with process._warnings_in_lines(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of something", stacklevel=1)
