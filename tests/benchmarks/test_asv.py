"""What asv runs, without asv; `make bench-check` runs all of it with asv."""

import pytest
import torch

from benchmarks import benchmark_gpu, benchmark_ops
from benchmarks.ops import OPS


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_gradients(op: str, backend: str) -> None:
    suite = benchmark_ops.Ops()
    suite.setup(op, backend, "tiny")
    suite.time_forward(op, backend, "tiny")
    suite.time_forward_and_backward(op, backend, "tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_figures_are_left_out() -> None:
    with pytest.raises(NotImplementedError, match="there is no GPU"):
        benchmark_gpu.OpsOnGPU().setup()
