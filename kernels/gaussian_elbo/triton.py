"""``gaussian_elbo`` in Triton: one launch makes the loss and, where asked, its gradients."""

import torch
from torch import Tensor

from ..gaussian_nll.triton import forward_kernel, part_sums, split
from ..triton_launch import arithmetic, partials

__all__ = ["gaussian_elbo"]


def gaussian_elbo(
    x_hat: Tensor, x: Tensor, log_gamma: Tensor, kl: Tensor, beta: float, with_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss, nll, squared error and the loss's gradients of x_hat (no rows where not asked for), log_gamma and kl."""
    rows, cols = x_hat.shape
    dtype, triton_dtype = arithmetic(x_hat, x)
    nll, squared_error = x_hat.new_empty(rows, dtype=dtype), x_hat.new_empty(rows, dtype=dtype)
    loss, grad_kl = nll.new_empty(()), nll.new_empty(())
    grad_x_hat = x_hat.new_empty(rows if with_gradients else 0, cols)
    grad_log_gamma = torch.empty_like(log_gamma)
    if rows == 0:  # the mean of nothing
        results = loss.fill_(torch.nan), nll, squared_error, grad_x_hat
        return *results, grad_log_gamma.zero_(), grad_kl.fill_(torch.nan)
    at = split(rows, cols, dtype)
    sums, counters, group_size = partials(x_hat, at.tiles, 2, torch.float64)
    forward_kernel[(at.tiles * at.splits,)](
        x_hat,
        x,
        log_gamma,
        kl,
        nll,
        squared_error,
        grad_x_hat if with_gradients else None,
        loss,
        grad_log_gamma,
        grad_kl,
        *part_sums(nll, at),
        sums,
        counters,
        beta,
        rows,
        cols,
        at.splits,
        at.cols,
        group_size,
        *x_hat.stride(),
        *x.stride(),
        kl.stride(0),
        ARITHMETIC=triton_dtype,
        ROWS=at.tile_rows,
        COLS=at.tile_cols,
    )
    return loss, nll, squared_error, grad_x_hat, grad_log_gamma, grad_kl
