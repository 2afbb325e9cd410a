"""``gaussian_elbo`` in Triton: one launch makes the loss and, if asked, its gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gaussian_nll.triton import launch_forward
from ..triton_launch import arithmetic, tile_elements

__all__ = ["gaussian_elbo", "gaussian_elbo_scale"]

PROGRAMS_TO_SCALE = 512  # enough to fill a GPU; most often all that each does is one look


def gaussian_elbo(
    x_hat: Tensor, x: Tensor, log_gamma: Tensor, kl: Tensor, beta: float, with_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss, nll, squared error and the loss's gradients of x_hat (no rows if not asked for), log_gamma and kl."""
    rows, cols = x_hat.shape
    dtype, _ = arithmetic(x_hat, x)
    loss, grad_kl = x_hat.new_empty((), dtype=dtype), x_hat.new_empty((), dtype=dtype)
    grad_x_hat = x_hat.new_empty(rows if with_gradients else 0, cols)
    grad_log_gamma = torch.empty_like(log_gamma)
    nll, squared_error = launch_forward(
        x_hat,
        x,
        log_gamma,
        kl=kl,
        beta=beta,
        grad_x_hat=grad_x_hat if with_gradients else None,
        loss=loss,
        grad_log_gamma=grad_log_gamma,
        grad_kl=grad_kl,
    )
    if rows == 0:  # the mean of nothing
        loss.fill_(torch.nan)
        grad_log_gamma.zero_()
        grad_kl.fill_(torch.nan)
    return loss, nll, squared_error, grad_x_hat, grad_log_gamma, grad_kl


@triton.jit
def scale_kernel(
    grad_x_hat_ptr,  # [elements]
    grad_log_gamma_ptr,  # []
    grad_kl_ptr,  # []
    grad_loss_ptr,  # []
    elements: tl.int64,
    BLOCK: tl.constexpr,
):
    grad_loss = tl.load(grad_loss_ptr)
    if grad_loss != 1.0:
        program = tl.program_id(0).to(tl.int64)
        if program == 0:
            grad_log_gamma, grad_kl = tl.load(grad_log_gamma_ptr), tl.load(grad_kl_ptr)
            tl.store(grad_log_gamma_ptr, (grad_log_gamma * grad_loss).to(grad_log_gamma.dtype))
            tl.store(grad_kl_ptr, (grad_kl * grad_loss).to(grad_kl.dtype))
        factor = grad_loss.to(grad_x_hat_ptr.dtype.element_ty)
        for first in range(program * BLOCK, elements, tl.num_programs(0) * BLOCK):
            offset = first + tl.arange(0, BLOCK)
            inside = offset < elements
            grad_x_hat = tl.load(grad_x_hat_ptr + offset, mask=inside, other=0.0)
            tl.store(grad_x_hat_ptr + offset, factor * grad_x_hat, mask=inside)


def gaussian_elbo_scale(grad_x_hat: Tensor, grad_log_gamma: Tensor, grad_kl: Tensor, grad_loss: Tensor) -> None:
    """These gradients, dense, times that of the loss, in place. Where it is 1 nothing else is read or written."""
    elements, block = grad_x_hat.numel(), 2 * tile_elements(grad_x_hat.dtype)
    programs = min(max(triton.cdiv(elements, block), 1), PROGRAMS_TO_SCALE)
    scale_kernel[(programs,)](grad_x_hat, grad_log_gamma, grad_kl, grad_loss, elements, BLOCK=block)
