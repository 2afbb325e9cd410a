"""The definition of ``lstm`` in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["lstm"]


def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """See :func:`manifold_core.kernels.lstm`."""
    h = c = x.new_zeros(x.shape[0], weight_hh.shape[1])
    states = []
    for step in x.unbind(1):
        i, f, g, o = (linear(step, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states, dim=1)
