"""What the results of an op have to be: its definition in float64, and how large the terms are they are made of."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from dtypes import arithmetic
from manifold_core.kernels.gaussian_elbo.reference import gaussian_elbo
from manifold_core.kernels.gaussian_nll.reference import gaussian_nll
from manifold_core.kernels.random import standard_normal
from manifold_core.kernels.rsample_kl import reference as diagonal
from manifold_core.kernels.rsample_kl_cholesky import reference as cholesky
from tolerances import sum_rounding
from torch import Tensor
from torch.autograd import grad

__all__ = [
    "PHILOX",
    "Expected",
    "assert_gradients_of_infinite_kl",
    "gradients",
    "in_float64",
    "infinite_in_float32",
    "learned",
    "of_gaussian",
    "of_rsample_kl",
    "philox_words",
]

# Random123, the authors' own tests: counter, key, words.
PHILOX = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_words(seed: int, row: int, cols: int, stream: int) -> list[int]:
    """Of one row, in Python's own integers; ``cols`` is a multiple of 4."""
    words: list[int] = []
    for block in range(cols // 4):
        a, b, c, d = block, row % 2**32, row // 2**32, stream
        key, other = seed % 2**32, seed // 2**32
        for _ in range(10):
            first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
            a, b, c, d = second // 2**32 ^ b ^ key, second % 2**32, first // 2**32 ^ d ^ other, first % 2**32
            key, other = (key + 0x9E3779B9) % 2**32, (other + 0xBB67AE85) % 2**32
        words += [a, b, c, d]
    return words


class Expected(NamedTuple):
    """A result, exact."""

    value: Tensor
    size: Tensor  # the sum of the absolute values of its terms: an error is relative to that
    batch_sum: bool = False


def gradients(outputs: Sequence[Tensor], incoming: Sequence[Tensor | None], inputs: Iterable[Tensor]) -> list[Tensor]:
    """Of those outputs that have an incoming gradient; 0 for inputs that they do not depend on."""
    pairs = [(o, g) for o, g in zip(outputs, incoming, strict=True) if g is not None and o.requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in inputs]
    of, given = zip(*pairs, strict=True)
    return list(grad(of, list(inputs), given, retain_graph=True, materialize_grads=True))


def learned(inputs: dict[str, Tensor]) -> list[Tensor]:
    """Those that require a gradient."""
    return [tensor for tensor in inputs.values() if tensor.requires_grad]


def in_float64(tensor: Tensor) -> Tensor:
    """The same numbers, on the host, to evaluate the definition on."""
    return tensor.detach().cpu().double().requires_grad_(tensor.requires_grad)


def of_rsample_kl(
    inputs: dict[str, Tensor],
    seed: int,
    first_row: int,
    per_dimension: bool,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
) -> dict[str, Expected]:
    """z, kl, variance_ratio and ``grad_<name>`` of each input that requires a gradient; some arguments may be left out.

    Of rsample_kl_cholesky where there is a ``tril`` among them.
    """
    exact = {name: in_float64(tensor) for name, tensor in inputs.items()}
    rows, cols = exact["mu"].shape
    rest = torch.tensor(seed), first_row, per_dimension, True
    prior = exact.get("prior_mu"), exact.get("prior_log_var")
    if "tril" in exact:
        z, kl, ratio = cholesky.rsample_kl_cholesky(exact["mu"], exact["tril"], *prior, *rest)
    else:
        z, kl, ratio = diagonal.rsample_kl(exact["mu"], exact["log_var"], *prior, exact.get("gate_logits"), *rest)
    incoming = [g if g is None else in_float64(g) for g in (grad_z, grad_kl)]
    learn = {name: tensor for name, tensor in exact.items() if tensor.requires_grad}
    grads = gradients((z, kl), incoming, learn.values())
    noise = standard_normal(torch.tensor(seed), rows, cols, first_row)
    with torch.no_grad():
        g, k = (torch.zeros(rows, 1) if t is None else t.abs().reshape(rows, -1) for t in incoming)
        g, k = g.expand(rows, cols), k.expand(rows, cols)
        sizes = (_sizes_with_tril if "tril" in exact else _sizes)(exact, noise.abs(), g, k)
        answer = {
            "z": Expected(z.detach(), sizes["z"]),
            "kl": Expected(kl.detach(), kl.detach()),  # its terms are positive
            "variance_ratio": Expected(ratio, ratio, batch_sum=True),
        }
        for (name, tensor), value in zip(learn.items(), grads, strict=True):
            summed = tensor.shape[0] != rows
            size = sizes[name].sum(dim=0, keepdim=True) if summed else sizes[name]
            answer[f"grad_{name}"] = Expected(value, size, summed)
    return answer


def of_gaussian(
    inputs: dict[str, Tensor],
    beta: float | None,
    incoming: Sequence[Tensor | None],
    relative: float,
    over_rows: float = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of gaussian_elbo, or where beta is None of gaussian_nll, every output and ``grad_<name>`` of each input that
    requires a gradient: the exact value, and how far from it a result may be.

    ``relative`` is the error allowed in each term of a sum, ``over_rows`` what a sum over the batch adds.
    """
    exact = {name: in_float64(tensor) for name, tensor in inputs.items()}
    x_hat, x, log_gamma = exact["x_hat"], exact["x"], exact["log_gamma"]
    outputs: tuple[Tensor, ...] = gaussian_nll(x_hat, x, log_gamma)
    if beta is not None:
        outputs = gaussian_elbo(x_hat, x, log_gamma, exact["kl"], beta)
    learn = {name: tensor for name, tensor in exact.items() if tensor.requires_grad}
    incoming = [g if g is None else in_float64(g) for g in incoming]
    grads = dict(zip(learn, gradients(outputs, incoming, learn.values()), strict=True))
    with torch.no_grad():
        rows, cols = x.shape
        summed = relative + sum_rounding(cols, arithmetic(inputs["x_hat"].dtype, inputs["x"].dtype))
        nll, squared_error = outputs[-2:]
        scaled = squared_error * torch.exp(-log_gamma)
        constant = cols * (math.log(2 * math.pi) + log_gamma.abs())  # a sum of two terms, too, which may cancel
        bounds = {"nll": (summed * scaled + relative * constant) / 2, "squared_error": summed * squared_error}
        *of_loss, of_nll, of_squared_error = (torch.zeros(()) if g is None else g.abs() for g in incoming)
        of_nll = (of_nll + sum(of_loss) / rows).expand(rows)
        of_x = (of_nll * torch.exp(-log_gamma) + 2 * of_squared_error).unsqueeze(1) * (x_hat - x).abs()
        of_log_gamma = (of_nll * (cols + scaled)).sum() / 2
        of_inputs = {"x_hat": relative * of_x, "x": relative * of_x, "log_gamma": (summed + over_rows) * of_log_gamma}
        if beta is not None:
            terms = nll.abs() + (beta * exact["kl"]).abs()
            bounds = {"loss": (bounds["nll"] + (relative + over_rows) * terms).mean(), **bounds}
            of_inputs["kl"] = relative * abs(beta) * sum(of_loss) / rows
        answer = {name: (value, bounds[name]) for name, value in zip(bounds, outputs, strict=True)}
        return answer | {f"grad_{name}": (value, of_inputs[name]) for name, value in grads.items()}


def infinite_in_float32(full: bool, cols: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of rsample_kl, or of rsample_kl_cholesky, and the incoming gradients of the KL. That of sample 1 is more
    than float32 holds, and does not count; the derivatives of that of sample 2 are as well, and count little."""
    mu, log_var = torch.full((4, cols), 0.5), torch.full((4, cols), -40.0)
    mu[1], log_var[1], log_var[2] = 1e15, 60.0, 49.0
    inputs = {"mu": mu, "log_var": log_var}
    if full:
        rows, columns = torch.tril_indices(cols, cols)
        tril = torch.where(rows == columns, log_var[:, rows] / 2, 1e-9)
        tril[1] = torch.where(rows == columns, tril[1], 1e15)
        inputs = {"mu": mu, "tril": tril}
    inputs |= {"prior_mu": torch.zeros(1, cols), "prior_log_var": torch.full((1, cols), -40.0)}
    for tensor in inputs.values():
        tensor.requires_grad_()
    return inputs, torch.tensor([1.0, 0.0, 1e-8, 0.5])


def assert_gradients_of_infinite_kl(found: dict[str, Tensor], inputs: dict[str, Tensor], grad_kl: Tensor) -> None:
    """Those of the definition in float64, and 0 for the sample that does not count."""
    exact = of_rsample_kl(inputs, 0, 0, False, None, grad_kl)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.double(), exact[f"grad_{name}"].value, rtol=1e-5, atol=0)
        if len(gradient) == len(grad_kl):
            assert (gradient[1] == 0).all(), name


def _sizes(exact: dict[str, Tensor], noise: Tensor, g: Tensor, k: Tensor) -> dict[str, Tensor]:
    """Of z and of each gradient. Those of the noise and of the incoming gradients are given."""
    p = exact.get("prior_log_var", torch.zeros(()))
    scaled = (exact["mu"] - exact.get("prior_mu", 0)).abs() * torch.exp(-p / 2)
    spread = torch.exp(exact["log_var"] / 2) * noise
    logits = exact.get("gate_logits", torch.tensor(math.inf))
    weight = torch.sigmoid(logits)
    sample = exact["mu"].abs() + spread
    growth = torch.expm1(exact["log_var"] - p).abs()
    slope = k * scaled * torch.exp(-p / 2)
    return {
        "z": sample * weight,
        "mu": g * weight + slope,
        "log_var": (g * weight * spread + k * growth) / 2,
        "prior_mu": slope,
        "prior_log_var": k * (scaled.square() + growth) / 2,
        "gate_logits": g * sample * weight * torch.sigmoid(-logits),  # 1 - w would lose digits
    }


def _sizes_with_tril(exact: dict[str, Tensor], noise: Tensor, g: Tensor, k: Tensor) -> dict[str, Tensor]:
    rows, cols = noise.shape
    p = exact.get("prior_log_var", torch.zeros(())).expand(rows, cols)
    factor = torch.exp(-p / 2)
    scaled = (exact["mu"] - exact.get("prior_mu", 0)).abs() * factor
    slope = k * scaled * factor
    spread, squares, of_tril = [], [], []
    for i in range(cols):
        first, last = i * (i + 1) // 2, i * (i + 3) // 2
        row, t = exact["tril"][:, first:last].abs(), exact["tril"][:, last]
        g_i, k_i, factor_i = (v[:, i : i + 1] for v in (g, k, factor))
        own, others = torch.exp(t) * noise[:, i], (row * noise[:, :i]).sum(dim=1)
        growth = torch.expm1(2 * t - p[:, i]).abs()
        spread.append(own + others)
        squares.append((row * factor_i).square().sum(dim=1) + growth)
        of_tril += [g_i * noise[:, :i] + k_i * row * factor_i * factor_i, (g[:, i] * own + k[:, i] * growth)[:, None]]
    return {
        "z": exact["mu"].abs() + torch.stack(spread, dim=1),
        "mu": g + slope,
        "tril": torch.cat(of_tril, dim=1),
        "prior_mu": slope,
        "prior_log_var": k * (scaled.square() + torch.stack(squares, dim=1)) / 2,
    }
