"""``manifold-core info`` and ``--version``."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import ENVIRONMENT
from torch._subclasses.fake_tensor import FakeTensorMode

import manifold_core as mc
from manifold_core import cli
from manifold_core.data.images import IMAGE_SETS

pytestmark = pytest.mark.usefixtures("one_thread")


class TestInfo:
    def test_in_another_process(self) -> None:
        environment = {name: value for name, value in ENVIRONMENT.items() if name != "MANIFOLD_CORE_DATA"}
        done = subprocess.run(
            [sys.executable, "-m", "manifold_core.cli", "info"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert re.search(rf"^manifold-core +{re.escape(mc.__version__)}$", done.stdout, re.MULTILINE)
        assert re.search(rf"^torch +{re.escape(torch.__version__)}, 1 threads$", done.stdout, re.MULTILINE)
        assert re.search(r"^compiled module (built by .+ for torch >= \d+\.\d+|none: .+)$", done.stdout, re.MULTILINE)
        assert re.search(r"^backend \(CPU\) +(cpu|reference): .+$", done.stdout, re.MULTILINE)
        for name in IMAGE_SETS:
            assert re.search(rf"^{name} +\S+", done.stdout, re.MULTILINE)

    def test_in_another_thread(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Only the main one may take signals."""
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(cli.main, ["info"]).result() == 0
        assert capfd.readouterr().out.startswith("manifold-core ")

    def test_without_the_compiled_module_it_says_why(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for module in ("manifold_core.cli.commands", "manifold_core.kernels.extension"):
            monkeypatch.setattr(f"{module}.compiled", None)
            monkeypatch.setattr(f"{module}.missing_because", "it rained")
        assert cli.main(["info"]) == 0
        printed = capfd.readouterr().out
        assert "compiled module none: it rained\n" in printed
        assert re.search(r"^backend \(CPU\) +reference: it rained$", printed, re.MULTILINE)

    def test_on_a_gpu_it_says_what_serves_it(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("torch._subclasses.fake_tensor.init_gpu_context", lambda _: None)  # there is no driver
        a100 = SimpleNamespace(name="A100", major=8, minor=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: a100)
        for missing, served in (
            ("", "cuda: compiled kernels for CUDA tensors"),
            ("it rained", "triton: Triton's kernels for CUDA tensors: it rained"),
        ):
            for module in ("manifold_core.cli.commands", "manifold_core.kernels.extension"):
                monkeypatch.setattr(f"{module}.cuda_missing_because", missing)
            monkeypatch.setattr("manifold_core.kernels.dispatch.TRITON_INSTALLED", True)
            with FakeTensorMode():
                assert cli.main(["info"]) == 0
            printed = capfd.readouterr().out
            assert re.search(rf"^CUDA kernels +{missing or 'loaded'}$", printed, re.MULTILINE)
            assert re.search(rf"^backend \(GPU\) +{re.escape(served)}$", printed, re.MULTILINE)

    def test_it_finds_the_data(
        self, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MANIFOLD_CORE_DATA", str(inputs / "small"))
        assert cli.main(["info"]) == 0
        assert re.search(rf"^mnist +{re.escape(str(inputs / 'small'))}$", capfd.readouterr().out, re.MULTILINE)
        monkeypatch.setenv("MANIFOLD_CORE_DATA", str(inputs / "nowhere"))
        assert cli.main(["info"]) == 0
        printed = capfd.readouterr()
        for name in IMAGE_SETS:
            said = rf"^{name} +MANIFOLD_CORE_DATA={re.escape(str(inputs / 'nowhere'))}: no such folder$"
            assert re.search(said, printed.out, re.MULTILINE)
        assert printed.err == ""

    def test_version(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            cli.main(["--version"])
        assert stop.value.code == 0
        assert capfd.readouterr().out == f"manifold-core {mc.__version__}\n"
