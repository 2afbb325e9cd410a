"""The dimension of the data manifold, read off a trained model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .models import CVAE, VAE, check_inputs

__all__ = ["THRESHOLD", "ActiveDimensions", "active_dimensions", "count_active"]

THRESHOLD = 0.05  # Appendix B of the paper


@dataclass(frozen=True)
class ActiveDimensions:
    """Encoder variances and what follows from them.

    Attributes:
        variance: ``[κ]`` float64, σ_j² averaged over the samples; of a CVAE σ_j² over the prior's.
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
    model: VAE | CVAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    threshold: float = THRESHOLD,
    batch_size: int = 4096,
) -> ActiveDimensions:
    """#{j : E[σ_j²(x)] < threshold}, of a CVAE #{j : E[σ_j²(x, c) / σ_p,j²(c)] < threshold}: at the optimum active
    variances fall with γ, the others stay at the prior's.

    The model is put into evaluation mode for the while and back into its own afterwards.

    Args:
        model: trained.
        x: ``[N, ...]``, N ≥ 1 samples to average over.
        condition: ``[N, t]``, of a CVAE.
        threshold: between 0 and 1; 0.05 as in the paper.
        batch_size: samples encoded at a time; changes memory, and the result by rounding only.

    Raises:
        InputError: no samples, a condition that does not go with model and samples, or a threshold outside (0, 1).

    Source: "Learning Manifold Dimensions with Conditional VAEs", Definitions 3 and 5, and Appendix B.
    """
    inputs = check_inputs(model, x, condition)
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    was_training = model.training
    model.eval()
    try:
        total = torch.zeros(model.latent_dim, dtype=torch.float64, device=x.device)
        for batch in zip(*(part.split(batch_size) for part in inputs), strict=True):
            total += model.variance_ratio(*batch).sum(dim=0)
    finally:
        model.train(was_training)
    return ActiveDimensions((total / len(x)).cpu(), threshold)
