"""Batch normalisation that several processes can share."""

import torch
from torch import Tensor, nn

from ..distributed import Joined, gathered

__all__ = ["BatchNorm2d"]


class BatchNorm2d(Joined, nn.BatchNorm2d):
    """nn.BatchNorm2d with its defaults; over the joined batch of processes that train together.

    (nn.SyncBatchNorm refuses CPUs.) Means of squared deviations are joined, not of squares: nothing cancels.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.process_group is None or not self.training:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        variances, means = gathered(torch.stack((variance, mean)), self.process_group).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self.observe(mean, variance, len(means) * x.numel() // x.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @property
    def one_batch(self) -> bool:
        """Whether it takes mean and variance of this process's batch, and is else as it was made."""
        usual = self.weight is not None and self.bias is not None and self.running_mean is not None
        tracked = self.track_running_stats and self.momentum is not None
        return self.training and self.process_group is None and usual and tracked

    @torch.no_grad()
    def observe(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Let the running statistics follow those of a batch with ``values`` per channel; ``variance`` is biased."""
        unbiased = variance * (values / (values - 1))
        followed = [mean.to(self.running_mean.dtype), unbiased.to(self.running_var.dtype)]
        torch._foreach_lerp_([self.running_mean, self.running_var], followed, self.momentum)  # on a GPU one launch
        self.num_batches_tracked.add_(1)
