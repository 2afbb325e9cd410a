import shutil

import pytest
from manifold_core.kernels.dispatch import OLDEST

from benchmarks.resources.cuda_kernels import RESIDENCIES, _compiler, _of_models, _readable, parse, rows
from benchmarks.resources.table import ARCHITECTURES, Row, faults

NEEDS_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
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


def test_the_oldest_architecture_that_is_built_is_the_oldest_that_is_served() -> None:
    assert divmod(min(ARCHITECTURES), 10) == OLDEST


def test_the_log_of_the_compiler_is_understood() -> None:
    assert list(parse(LOG)) == [("_Z1fv", 75, 80, 8200, 68), ("_Z1gv", 90, 24, 0, 0)]


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="there is no c++filt")
def test_kernels_are_named_by_their_variants() -> None:
    begin = "_ZN13manifold_core4cuda"
    diagonal = f"{begin}10rsample_klIffLi1EEEvNS0_9RsampleKlE"
    full = f"{begin}26rsample_kl_cholesky_stagedIfNS0_8BFloat16EEEvNS0_8CholeskyE"
    ensemble = f"{begin}14ensemble_stepsINS0_10TileSharedEEEvNS0_13EnsembleStepsE"
    assert _readable([diagonal, full, ensemble]) == [
        ("rsample_kl", "float32 from float32, 1 batch sums"),
        ("rsample_kl_cholesky_staged", "float32 from bfloat16, and 33 KB of rows a buffer"),
        ("ensemble_steps", "the tile in shared memory"),
    ]


@NEEDS_NVCC
def test_models_of_an_ensemble_are_told_with_the_memory_of_their_launch() -> None:
    compiled = [Row("ensemble_steps", residency, 75, 100, 4608, 0) for residency in RESIDENCIES.values()]
    found = list(_of_models(_compiler(), compiled))
    assert faults(found) == []
    variant = "all in shared memory, d = 20, κ = 20, hidden 32: 32 columns"
    assert [row.shared for row in found if row.variant == variant] == [4608 + 40912]


@pytest.mark.slow
@NEEDS_NVCC
def test_every_kernel_compiles_for_every_architecture_and_spills_nothing() -> None:
    found = list(rows())
    cholesky = {"rsample_kl_cholesky_staged", "rsample_kl_cholesky_long"}
    kernels = {"rsample_kl", *cholesky, "gaussian_nll", "batch_norm_relu"}
    sums = {"batch_norm_relu_sums", "batch_norm_relu_backward_sums"}
    expected = kernels | {f"{name}_backward" for name in kernels} | sums | {"gaussian_elbo_scale", "ensemble_steps"}
    assert {row.kernel for row in found} == expected
    assert {row.sm for row in found} == set(ARCHITECTURES)
    assert faults(found) == []
