"""The definition of ``gaussian_nll``, in plain PyTorch; exact in float64."""

import math

import torch
from torch import Tensor

from ..checks import accumulation_dtype

__all__ = ["gaussian_nll"]


def gaussian_nll(x_hat: Tensor, x: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x_hat, x)
    squared_error = (x_hat.to(dtype) - x.to(dtype)).square().sum(dim=1)
    wide_log_gamma = log_gamma.to(dtype)
    constant = x_hat.shape[1] * (math.log(2 * math.pi) + wide_log_gamma)
    return 0.5 * (squared_error * torch.exp(-wide_log_gamma) + constant), squared_error
