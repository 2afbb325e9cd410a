"""What only a GPU can show of the CUDA kernels."""

import math
from collections.abc import Callable

import pytest
import torch
from cuda_on_host.kernels import NEEDS_DEVICE
from manifold_core.kernels.random import standard_normal
from torch import Tensor

pytestmark = [pytest.mark.gpu, NEEDS_DEVICE]


@pytest.fixture
def calls() -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Each operator on small tensors, batch sums and all."""
    run = torch.ops.manifold_core
    x, kl = torch.randn(700, 36, device="cuda"), torch.randn(700, device="cuda")
    tril = 0.1 * torch.randn(700, 36 * 37 // 2, device="cuda")
    one, zeros = torch.zeros(1, 36, device="cuda"), torch.zeros(700, 36, device="cuda")
    seed, log_gamma = torch.tensor(1, device="cuda"), torch.tensor(0.1, device="cuda")
    u = torch.randn(300, 10, 5, 3, device="cuda").contiguous(memory_format=torch.channels_last)
    of_channels = [*torch.randn(2, 10, device="cuda"), torch.randn(10, 4, device="cuda")]

    def gaussian_elbo_scale() -> tuple[Tensor, ...]:
        early = x.clone(), log_gamma.clone(), log_gamma.clone()
        run.gaussian_elbo_scale(*early, log_gamma)
        return early

    return {
        "rsample_kl": lambda: run.rsample_kl(x, x, one, one, one, seed, 0, False, True),
        "rsample_kl_backward": lambda: run.rsample_kl_backward(x, kl, x, x, one, one, one, seed, 0, True, True),
        "rsample_kl_cholesky": lambda: run.rsample_kl_cholesky(x, tril, one, one, seed, 0, False, True),
        "rsample_kl_cholesky_backward": lambda: run.rsample_kl_cholesky_backward(
            x, kl, x, tril, one, one, seed, 0, True
        ),
        "gaussian_nll": lambda: run.gaussian_nll(x, zeros, log_gamma),
        "gaussian_nll_backward": lambda: run.gaussian_nll_backward(kl, kl, x, zeros, log_gamma, kl),
        "gaussian_elbo": lambda: run.gaussian_elbo(x, zeros, log_gamma, kl, 0.5, True),
        "gaussian_elbo_scale": gaussian_elbo_scale,
        "batch_norm_relu": lambda: run.batch_norm_relu(u, *of_channels[:2], u, 0.1, True),
        "batch_norm_relu_backward": lambda: run.batch_norm_relu_backward(u, u, *of_channels, True),
    }


def test_no_more_kernels_are_launched_than_needed(calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    torch.cuda.synchronize()
    for name, call in calls.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        kernels = [e.name for e in profile.events() if "Mem" not in e.name and "cuda" in str(e.device_type).lower()]
        # Before a number of images is normalised, all have been seen.
        assert len(kernels) == (2 if name.startswith("batch_norm") else 1), (name, kernels)


def test_results_are_the_same_each_time(calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    for name, call in calls.items():
        first = call()
        for _ in range(20):
            for a, b in zip(first, call(), strict=True):
                assert torch.equal(a, b), name


def test_a_graph_replays_them(calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    for name, call in calls.items():
        expected = call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # refuses whatever waits for the device
            found = call()
        for result in found:
            result.fill_(math.nan)
        for _ in range(3):
            graph.replay()
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b), name


def test_the_seed_is_read_when_the_kernel_runs() -> None:
    run, x, seed = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda"), torch.tensor(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, _, _ = run.rsample_kl(x, x, None, None, None, seed, 0, False, False)
    for value in (1, 2, 2**63 - 1):
        seed.fill_(value)
        graph.replay()
        torch.testing.assert_close(z.cpu().double(), standard_normal(torch.tensor(value), 5, 8), rtol=1e-6, atol=0)


def test_another_stream(calls: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    stream = torch.cuda.Stream()
    for name, call in calls.items():
        expected = call()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)  # on another stream than this the results would be there at once
            found = call()
            assert not stream.query(), name
        stream.synchronize()
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b), name


def test_tensors_on_the_host_are_refused() -> None:
    run, x = torch.ops.manifold_core, torch.zeros(5, 8, device="cuda")
    with pytest.raises(RuntimeError, match="seed is on another device"):
        run.rsample_kl(x, x, None, None, None, torch.tensor(1), 0, False, False)
    with pytest.raises(RuntimeError, match="log_gamma is on another device"):
        run.gaussian_nll(x, x, torch.tensor(1.0))


def test_indices_past_31_bits() -> None:
    rows, cols = 2**21 + 1, 1024
    if torch.cuda.mem_get_info()[0] < 5 * rows * cols * 2:
        pytest.skip("the device has too little free memory")
    run, seed = torch.ops.manifold_core, torch.tensor(1, device="cuda")
    mu = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
    mu[-1] = 3
    z, kl, _ = run.rsample_kl(mu, mu, None, None, None, seed, 0, False, False)
    last = mu[-1:].float()
    same_z, same_kl, _ = run.rsample_kl(last, last, None, None, None, seed, rows - 1, False, False)
    assert torch.equal(z[-1:], same_z.bfloat16())
    torch.testing.assert_close(kl[-1:], same_kl)
    assert (kl[:-1] == 0).all()
    nll, squared_error = run.gaussian_nll(mu, torch.zeros_like(mu), torch.tensor(0.0, device="cuda"))
    assert squared_error[-1] == 9 * cols
    assert (squared_error[:-1] == 0).all()
    assert (nll[:-1] == nll[0]).all()
