"""The transposed convolution of the residual decoder, by kernels of ours where they serve."""

import torch
from torch import Tensor, nn

from ..kernels import conv_transpose
from ..kernels.dispatch import choose_for_images

__all__ = ["ConvTranspose2d", "served"]


def served(x: Tensor, *weights: Tensor) -> bool:
    """Whether kernels of ours compute a convolution of these: of dense tensors, and not in half precision."""
    if x.is_cpu and torch.is_autocast_enabled("cpu"):
        return False
    return weights[0].is_contiguous() and choose_for_images("auto", x, *weights) != "reference"


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of one kernel, stride and padding for both axes."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or self.bias is None or not served(x, self.weight, self.bias):
            return super().forward(x, output_size)
        padding = self.padding[0]
        assert isinstance(padding, int)
        return conv_transpose(x, self.weight, self.bias, stride=self.stride[0], padding=padding)
