"""The dimension of the data manifold, read off a trained model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .models import VAE

__all__ = ["THRESHOLD", "ActiveDimensions", "active_dimensions", "count_active"]

THRESHOLD = 0.05  # Appendix B of the paper


@dataclass(frozen=True)
class ActiveDimensions:
    """Encoder variances and what follows from them.

    Attributes:
        variance: ``[κ]`` float64, σ_j² averaged over the samples.
        threshold: below it a dimension is active.
    """

    variance: Tensor
    threshold: float

    @property
    def active(self) -> Tensor:
        """``[κ]`` bool."""
        return self.variance < self.threshold

    @property
    def count(self) -> int:
        """The estimate of the manifold's dimension."""
        return int(self.active.sum())

    @property
    def gap(self) -> float | None:
        """Smallest inactive over largest active variance: how clearly the two kinds are apart. On a well-trained model
        it is in the hundreds; near 1 the count hangs on the threshold. None where all dimensions are of one kind."""
        active, inactive = self.variance[self.active], self.variance[~self.active]
        return float(inactive.min() / active.max()) if len(active) and len(inactive) else None


def count_active(variance: Tensor, threshold: float = THRESHOLD) -> int:
    """#{j : variance_j < threshold}."""
    return int((variance.detach() < threshold).sum())


@torch.no_grad()
def active_dimensions(
    model: VAE, x: Tensor, *, threshold: float = THRESHOLD, batch_size: int = 4096
) -> ActiveDimensions:
    """#{j : E_x[σ_j²(x)] < threshold}: at the optimum active variances fall with γ, the others stay at 1.

    The model is put into evaluation mode for the while and back into its own afterwards.

    Args:
        model: trained.
        x: ``[N, ...]``, N ≥ 1 samples to average over.
        threshold: between 0 and 1; 0.05 as in the paper.
        batch_size: samples encoded at a time; changes memory, and the result by rounding only.

    Raises:
        InputError: no samples, or a threshold outside (0, 1).

    Source: "Learning Manifold Dimensions with Conditional VAEs", Definition 3 and Appendix B.
    """
    if len(x) == 0:
        raise InputError("x must hold at least one sample, got none")
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    was_training = model.training
    model.eval()
    try:
        total = torch.zeros(model.latent_dim, dtype=torch.float64, device=x.device)
        for batch in x.split(batch_size):
            _, log_var = model.posterior(batch)
            total += log_var.double().exp().sum(dim=0)
    finally:
        model.train(was_training)
    return ActiveDimensions((total / len(x)).cpu(), threshold)
