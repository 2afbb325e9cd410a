"""Whether a model has learned the manifold, or the samples alone."""

import torch
from torch import Tensor

from ..models import CVAE, VAE
from .residual import residuals

__all__ = ["OVERFITTED", "error_ratio"]

SAMPLES = 2**12  # of each part
# With tanh of 3 dimensions in 20 and 500, searches of 3,000 and 20,000 steps: for 500 samples 1.5 to 2.5, for 200 12
# and more, for 100 5 and more, for 30 28 and more; from 100 samples down the dimension was wrong in 4 of 8.
OVERFITTED = 4.0


@torch.no_grad()
def error_ratio(model: VAE | CVAE, inputs: tuple[Tensor, ...], held_out: tuple[Tensor, ...]) -> float | None:
    """Median of ‖x − x̂(μ)‖² over the samples held out, over that of those trained on: about 1 if the model has
    learned the manifold. Medians, since a chart of a closed manifold has a cut, beside which samples are far off. None
    if there is nothing to compare: no samples held out, or no error."""
    if not len(held_out[0]):
        return None
    learned, other = _median_error(model, inputs), _median_error(model, held_out)
    return other / learned if learned > 0 else None


def _median_error(model: VAE | CVAE, inputs: tuple[Tensor, ...]) -> float:
    errors = [residual.square().sum(dim=1) for residual in residuals(model, inputs, SAMPLES)]
    return float(torch.cat(errors).median())
