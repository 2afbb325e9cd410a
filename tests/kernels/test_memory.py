"""The bytes that docs/ops.md says are moved, and kept for the backward pass: inputs and the seed, and where it says so,
one array more."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from manifold_core.kernels import conv_norm, conv_transpose, gaussian_elbo, lstm
from torch import Tensor
from torch.autograd import grad
from torch.profiler import ProfilerActivity, profile
from traffic import Call, bytes_of, calls_of

import manifold_core as mc

pytestmark = pytest.mark.usefixtures("compiled")
B, D, K = 50, 30, 20
T = K * (K + 1) // 2
SEED = torch.tensor(1)
OPS = (Path(__file__).parents[2] / "docs" / "ops.md").read_text(encoding="utf-8")


def kept(function: Callable[[], tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """Bytes saved by a function that are not its inputs; and bytes besides those and its results that stay."""
    saved: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched,
    ):
        results = function()
    allocated = sum(event.self_cpu_memory_usage for event in watched.key_averages())
    returned = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in results}
    return sum(saved.values()), allocated - sum({**returned, **saved}.values())


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_rsample_kl_keeps_the_seed() -> None:
    inputs = normal(B, K), normal(B, K), normal(K), normal(B, K), normal(1, K)
    seed = 8

    def plain() -> tuple[Tensor, ...]:
        return mc.rsample_kl(*inputs[:2], seed=1)

    def everything() -> tuple[Tensor, ...]:
        return mc.rsample_kl(*inputs[:4], gate_logits=inputs[4], seed=1, return_variance_ratio=True)

    assert kept(plain, inputs) == (seed, 0)
    assert kept(everything, inputs) == (seed, 0)


def test_rsample_kl_cholesky_keeps_the_seed() -> None:
    inputs = normal(B, K), normal(B, T), normal(K), normal(B, K)
    assert kept(lambda: mc.rsample_kl_cholesky(*inputs[:2], seed=1), inputs) == (8, 0)
    assert kept(lambda: mc.rsample_kl_cholesky(*inputs, seed=1, return_variance_ratio=True), inputs) == (8, 0)


def test_gaussian_nll_keeps_the_squared_errors() -> None:
    inputs = normal(B, D), normal(B, D), torch.zeros((), requires_grad=True)
    assert kept(lambda: (mc.gaussian_nll(*inputs),), inputs) == (4 * B, 0)


def test_gaussian_elbo_keeps_the_gradient_of_x_hat_until_it_is_asked_for() -> None:
    inputs = normal(B, D), normal(B, D).detach(), torch.zeros((), requires_grad=True), normal(B)
    gradients = 4 * (B * D + 1 + 1)  # of x_hat, log_gamma and kl
    assert kept(lambda: gaussian_elbo(*inputs), inputs) == (4 * B, gradients)
    with torch.no_grad():
        assert kept(lambda: gaussian_elbo(*inputs), inputs) == (0, 0)


def test_conv_norm_keeps_what_was_normalised_and_conv_transpose_nothing() -> None:
    inputs = normal(B, 3, 6, 6), normal(4, 3, 3, 3), normal(4), normal(4), normal(B, 4, 3, 3)
    of_channels = 2 * 4 * 4  # mean and variance
    assert kept(lambda: conv_norm(*inputs, stride=2, padding=1), inputs) == (4 * B * 4 * 3 * 3 + of_channels, 0)
    inputs = normal(B, 3, 6, 6), normal(3, 4, 4, 4), normal(4)
    assert kept(lambda: (conv_transpose(*inputs, stride=2, padding=1),), inputs) == (0, 0)


def test_an_lstm_keeps_gates_and_cell_of_every_step() -> None:
    """Of whole tiles, 64 sequences."""
    inputs = normal(B, 3, 6), normal(20, 6), normal(20, 5), normal(20), normal(20)
    assert kept(lambda: (lstm(*inputs),), inputs) == (4 * -(-B // 64) * 64 * 3 * 5 * 5, 0)
    with torch.no_grad():
        assert kept(lambda: (lstm(*inputs),), inputs) == (0, 0)


class Passes(NamedTuple):
    """A row of the table."""

    op: str
    function: Callable[..., tuple[Tensor, ...]]
    inputs: Callable[[int], tuple[Tensor, ...]]  # of so many samples
    grad_loss: float = 1.0


def of_samples(*widths: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda rows: tuple(normal(rows, width) for width in widths)


def reconstruction(*, with_data: bool, with_kl: bool) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(rows: int) -> tuple[Tensor, ...]:
        log_gamma, kl = torch.zeros((), requires_grad=True), [normal(rows)] if with_kl else []
        return normal(rows, D), normal(rows, D).detach().requires_grad_(with_data), log_gamma, *kl

    return inputs


def sample(*inputs: Tensor, ratio: bool = False) -> tuple[Tensor, ...]:
    *posterior_and_prior, gate = (*inputs, None) if len(inputs) < 5 else inputs
    return mc.rsample_kl(*posterior_and_prior, gate_logits=gate, seed=SEED, return_variance_ratio=ratio)


def sample_full(*inputs: Tensor, ratio: bool = False) -> tuple[Tensor, ...]:
    return mc.rsample_kl_cholesky(*inputs, seed=SEED, return_variance_ratio=ratio)


def nll(*inputs: Tensor) -> tuple[Tensor, ...]:
    return (mc.gaussian_nll(*inputs),)


def loss(*inputs: Tensor) -> tuple[Tensor, ...]:
    return gaussian_elbo(*inputs)[:1]


TABLE = (
    Passes("`rsample_kl`", sample, of_samples(K, K)),
    Passes("… with prior and gate of each sample", sample, of_samples(K, K, K, K, K)),
    Passes("`rsample_kl_cholesky`", sample_full, of_samples(K, T)),
    Passes("… with prior of each sample", sample_full, of_samples(K, T, K, K)),
    Passes("`gaussian_nll`", nll, reconstruction(with_data=False, with_kl=False)),
    Passes("… with the gradient of x", nll, reconstruction(with_data=True, with_kl=False)),
    Passes("loss of `GaussianELBO`, learned or fixed γ", loss, reconstruction(with_data=False, with_kl=True)),
    Passes("… with the gradient of x", loss, reconstruction(with_data=True, with_kl=True)),
    Passes("… if its own gradient is not 1", loss, reconstruction(with_data=False, with_kl=True), grad_loss=0.5),
)


def moved(calls: list[Call]) -> Tensor:
    """Bytes read and written."""
    return sum((torch.tensor([bytes_of(call.read), bytes_of(call.written)]) for call in calls), torch.zeros(2).long())


def both_passes(row: Passes, rows: int, **options: bool) -> Tensor:
    """Bytes, [forward or backward, read or written]."""
    inputs = row.inputs(rows)
    forward = calls_of(lambda: row.function(*inputs, **options))
    outputs = [result for result in row.function(*inputs, **options) if result.requires_grad]
    incoming = [torch.full_like(result, row.grad_loss) for result in outputs]
    backward = calls_of(lambda: grad(outputs, [t for t in inputs if t.requires_grad], incoming))
    return torch.stack([moved(forward), moved(backward)])


def stated(cell: str) -> list[int]:
    """Bytes read and written."""
    size = {"κ": K, "d": D, "T": T, "": 1}
    return [
        sum(int(number) * size[of] for number, of in re.findall(r"(\d+)([κdT]?)", part))
        for part in cell.split(":")[0].split(",")
    ]


LINES = OPS[OPS.index("| forward: read, written |") :].split("\n\n")[0].splitlines()[2:]


@pytest.mark.parametrize(("line", "row"), list(zip(LINES, TABLE, strict=True)), ids=[row.op for row in TABLE])
def test_the_bytes_moved_are_those_that_the_documentation_states(line: str, row: Passes) -> None:
    """Those of one sample: what two batches differ by. What a call moves besides does not grow with the batch."""
    op, *cells = (cell.strip() for cell in line.strip("|").split("|"))
    assert op == row.op
    one = (both_passes(row, 2 * B) - both_passes(row, B)) // B
    assert one.tolist() == [stated(cell) for cell in cells[:2]]


def test_a_call_moves_besides_what_does_not_grow_with_the_batch() -> None:
    """Read and written: the seed, and log γ and its gradient; a variance ratio; a prior and a gate of one row."""

    def of_a_call(row: Passes, **options: bool) -> list[list[int]]:
        return (2 * both_passes(row, B, **options) - both_passes(row, 2 * B, **options)).tolist()

    of_one_row = TABLE[1]._replace(inputs=lambda rows: (normal(rows, K), normal(rows, K), *of_samples(K, K, K)(1)))
    for row in TABLE[:4]:
        assert of_a_call(row) == [[8, 0], [8, 0]]
        assert of_a_call(row, ratio=True) == [[8, 4 * K], [8, 0]]
    assert of_a_call(of_one_row) == [[8 + 12 * K, 0], [8 + 12 * K, 12 * K]]
    assert of_a_call(TABLE[4]) == [[4, 0], [4, 4]]
