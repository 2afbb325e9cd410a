import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
from benchmarks.resources import __main__ as command
from benchmarks.resources import cuda_kernels, triton_kernels
from benchmarks.resources.table import SHARED_LIMIT, Row, faults, markdown, release

GOOD = Row("f", "fp32, κ = 20", 75, 64, SHARED_LIMIT, 0)
SPILLS = GOOD._replace(sm=80, spills=4)
TOO_LARGE = GOOD._replace(sm=90, shared=SHARED_LIMIT + 1)


def test_the_table_has_a_line_for_each_row() -> None:
    *_, first, second = markdown([GOOD, SPILLS]).splitlines()
    assert first == "| f | fp32, κ = 20 | 75 | 64 | 65,536 | 0 |"
    assert second == "| f | fp32, κ = 20 | 80 | 64 | 65,536 | 4 |"


def test_faults_are_spills_and_what_a_t4_has_no_room_for() -> None:
    assert faults([GOOD, SPILLS, TOO_LARGE]) == [SPILLS, TOO_LARGE]


def test_a_release_is_read_off_what_the_compiler_says() -> None:
    assert release("Cuda compilation tools, release 12.8, V12.8.93\nBuild x") == "12.8.93"
    with pytest.raises(ValueError, match="no release in 'hello'"):
        release("hello")


def test_without_nvcc_the_other_half_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And takes no whole table's place."""
    whole = tmp_path / "table.md"
    whole.write_text("whole", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["resources", "--out", str(whole)])
    monkeypatch.setattr(cuda_kernels.shutil, "which", lambda *_, **__: None)
    for found, status in (([GOOD], 0), ([GOOD, SPILLS], 1)):
        monkeypatch.setattr(triton_kernels, "rows", lambda found=found: iter(found))
        assert command.main() == status
        said = capsys.readouterr()
        assert "Backend cuda: missing here; nvcc is needed" in said.out
        assert said.out.endswith(markdown(found))
        assert ("These spill" in said.err) == (status == 1)
        assert whole.read_text(encoding="utf-8") == "whole"


def test_a_kernel_is_compiled_without_a_gpu() -> None:
    # In a process of its own: in this one the kernels may be interpreted.
    code = (
        "import torch; from benchmarks.resources.triton_kernels import calls, compile_call;"
        "first = [variant for variant, _ in calls(torch.float16)].index('d = 784');"
        "print(*((row.kernel, row.sm, row.registers > 8, row.spills) for row in compile_call(torch.float16, first)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command_line = [sys.executable, "-c", code]
    said = subprocess.run(command_line, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split(") (") == [
        "('gaussian_nll forward', 75, True, 0",
        "'gaussian_nll forward', 80, True, 0",
        "'gaussian_nll forward', 90, True, 0)\n",
    ]


def test_kernels_that_are_interpreted_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET is set"):
        next(triton_kernels.rows())
