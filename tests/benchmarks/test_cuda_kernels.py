import shutil

import pytest

from benchmarks.resources.cuda_kernels import parse, rows
from benchmarks.resources.table import ARCHITECTURES, faults

LOG = """
ptxas info    : 28 bytes gmem, 224 bytes cmem[4]
ptxas info    : Compiling entry function '_Z1fv' for 'sm_75'
ptxas info    : Function properties for _Z1fv
    32 bytes stack frame, 36 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 32 bytes cumulative stack size, 8200 bytes smem, 800 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1gv' for 'sm_90'
ptxas info    : Function properties for _Z1gv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers, 736 bytes cmem[0]
"""


def test_the_log_of_the_compiler_is_understood() -> None:
    assert list(parse(LOG)) == [("_Z1fv", 75, 80, 8200, 68), ("_Z1gv", 90, 24, 0, 0)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_every_kernel_compiles_for_every_architecture_and_spills_nothing() -> None:
    found = list(rows())
    kernels = {"rsample_kl", "rsample_kl_cholesky", "gaussian_nll"}
    assert {row.kernel for row in found} == kernels | {f"{name}_backward" for name in kernels} | {"ensemble_steps"}
    assert {row.sm for row in found} == set(ARCHITECTURES)
    assert faults(found) == []
