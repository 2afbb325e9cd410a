"""Folders that one process works in at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from manifold_core.experiments.reproduce import reproduce

import manifold_core as mc
from manifold_core import cli
from manifold_core.files import locked

HOLDER = """
import sys
from pathlib import Path
from manifold_core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processes(tmp_path: Path) -> None:
    """Until it ends, also by kill -9; then it is free again."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            with pytest.raises(mc.InputError, match="another is at work in"), locked(tmp_path):
                pytest.fail("two hold it")
            with pytest.raises(mc.InputError, match="another is at work in"):
                reproduce(["table3"], tmp_path)
            arguments = ["train", "--data", "synthetic", "--out", str(tmp_path), "--quiet"]
            assert cli.main(arguments) == 2
            assert list(tmp_path.iterdir()) == []
        finally:
            holder.kill()
    with locked(tmp_path):
        pass
    with locked(tmp_path):  # and after that as well
        pass


def test_all_gpus_share_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert cli._devices("cuda") == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert cli._devices("auto") == ["cpu"]
    assert cli._devices("cpu") == ["cpu"]
    with pytest.raises(mc.InputError, match="got 'tpu'"):
        cli._devices("cpu,tpu")
