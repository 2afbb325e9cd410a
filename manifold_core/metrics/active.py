"""The dimension of the data manifold, read off a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_integer, check_number
from ..errors import InputError
from ..models import CVAE, VAE
from ..models.inputs import check_inputs, dtype_explained, unwrapped
from ..modes import evaluation_mode

__all__ = [
    "THRESHOLD",
    "ActiveDimensions",
    "active_dimensions",
    "averages",
    "check_known",
    "count_active",
    "gap_between",
    "samples_at_a_time",
]

THRESHOLD = 0.05  # Appendix B of the paper
# Samples encoded at a time, and numbers: on a GPU more, where the launches of a small batch take longer than its work.
MOST_SAMPLES, MOST_SAMPLES_OF_GPU = 2**12, 2**17
MOST_NUMBERS = 2**22
# For images on a CPU: residual networks make them some 20 times as large on their way, and with 32 channels take 1.9
# times as long in batches of 4,096.
MOST_IMAGE_NUMBERS = 2**18


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class ActiveDimensions:
    """Encoder variances, σ̄_j² = (1/N) Σ_i σ_j²(x_i) / σ_p,j²(c_i), and what follows from them: dimensions with σ̄_j²
    below the threshold are active. From :func:`active_dimensions` all are finite.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definitions 3 and 5, Appendix B;
    the average, interval, spectrum and gap are ours.

    Attributes:
        variance: ``[κ]`` float64, σ_j² averaged over the samples; of a CVAE σ_j² over the prior's.
        standard_error: ``[κ]`` float64, of that average: how far other samples would move it. Infinite for a single
            sample, which cannot tell: the interval is then 0 to κ.
        spectrum: ``[κ]`` float64, ascending: the eigenvalues of Σ_q against Σ_p, in order and then averaged over the
            samples. No rotation of the latent space changes them, not even one that differs from sample to sample.
        threshold: below it a dimension is active.
    """

    variance: Tensor
    standard_error: Tensor
    spectrum: Tensor
    threshold: float

    def __repr__(self) -> str:
        variance = ", ".join(f"{value:.3g}" for value in self.variance.tolist())
        gap = "None" if self.gap is None else f"{self.gap:.3g}"
        return (
            f"ActiveDimensions(count={self.count}, interval={self.interval}, gap={gap}, "
            f"spectrum_count={self.spectrum_count}, threshold={self.threshold}, variance=[{variance}])"
        )

    @property
    def active(self) -> Tensor:
        """``[κ]`` bool."""
        return self.variance < self.threshold

    @property
    def count(self) -> int:
        """The estimate of the manifold's dimension if the same axes carry it at every sample; for a closed or bent one
        use :func:`manifold_core.local_dimensions`."""
        return int(self.active.sum())

    @property
    def interval(self) -> tuple[int, int]:
        """The counts with all variances two standard errors higher, and lower: the same if the gap is wide. A dimension
        of which nothing is known counts in the second alone."""
        highest, lowest = (self.variance + sign * 2 * self.standard_error for sign in (1, -1))
        return count_active(highest, self.threshold), len(lowest) - int((lowest >= self.threshold).sum())

    @property
    def spectrum_count(self) -> int:
        """The same estimate, unchanged by any rotation of the latent space: how many eigenvalues are below the
        threshold. With full covariance the active directions need not lie along the axes: ``count`` may be lower."""
        return count_active(self.spectrum, self.threshold)

    @property
    def gap(self) -> float | None:
        """Smallest inactive over largest active variance: how far apart the two kinds are. On a well-trained model it
        is in the hundreds; near 1 the count depends on the threshold. None if all dimensions are of one kind."""
        return gap_between(self.variance, self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return {
            "count": self.count,
            "interval": list(self.interval),
            "gap": self.gap,
            "spectrum_count": self.spectrum_count,
            "threshold": self.threshold,
            "variance": self.variance.tolist(),
            "standard_error": self.standard_error.tolist(),
            "spectrum": self.spectrum.tolist(),
        }


def gap_between(variance: Tensor, threshold: float = THRESHOLD) -> float | None:
    """Smallest of those from the threshold on over the largest below it; None if all are of one kind."""
    active, inactive = variance[variance < threshold], variance[variance >= threshold]
    return float(inactive.min() / active.max()) if len(active) and len(inactive) else None


def count_active(variance: Tensor, threshold: float = THRESHOLD) -> int:
    """#{j : variance_j < threshold}, of finite variances."""
    return int((variance.detach() < threshold).sum())


def active_dimensions(
    model: VAE | CVAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    threshold: float = THRESHOLD,
    batch_size: int | None = None,
) -> ActiveDimensions:
    """#{j : E[σ_j²(x)] < threshold}, for a CVAE #{j : E[σ_j²(x, c) / σ_p,j²(c)] < threshold}: at the optimum active
    variances fall with γ, the others stay at the prior's. With full covariance σ_j² is (Σ_q)_jj.

    The model is put into evaluation mode meanwhile, and each of its modules back into its own afterwards.

    Args:
        model: trained; if compiled or wrapped, the model within is read.
        x: ``[N, ...]``, N ≥ 1 samples to average over.
        condition: ``[N, t]``, of a CVAE.
        threshold: between 0 and 1; 0.05 as in the paper.
        batch_size: samples encoded at a time; affects memory, and the result by rounding only. None takes as many as
            have 2²² numbers in x, condition and posterior covariance, 2¹⁸ for images on a CPU; at most 4,096 on a CPU,
            131,072 on a GPU.

    Raises:
        InputError: no samples, or one that is not finite, a condition that does not match model and samples, a batch
            size below 1, or a threshold outside (0, 1); a variance that is not finite, which says nothing of the
            dimension.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Definitions 3 and 5, and Appendix
    B.
    """
    model = unwrapped(model)
    inputs = check_inputs(model, x, condition)
    found = averages(model, inputs, threshold, samples_at_a_time(model, inputs, batch_size))
    check_known(found.variance)
    return found


def check_known(variance: Tensor | Sequence[float]) -> None:
    """Raise InputError if a latent dimension's variance is not finite: it is neither active nor inactive."""
    variance = torch.as_tensor(variance, dtype=torch.float64, device="cpu")
    if len(unknown := (~variance.isfinite()).nonzero().flatten()):
        raise InputError(
            f"model must have finite variances, got {float(variance[unknown[0]])} in latent dimension "
            f"{int(unknown[0])}, {len(unknown)} of {len(variance)} in all: are its weights finite?"
        )


def samples_at_a_time(model: VAE | CVAE, inputs: tuple[Tensor, ...], asked: int | None) -> int:
    """The batch size of :func:`active_dimensions`, for inputs as :func:`check_inputs` gives them.

    Raises:
        InputError: one that was asked for is not a positive integer.
    """
    if asked is not None:
        return check_integer("batch_size", asked, 1)
    on_cpu, images = inputs[0].device.type == "cpu", inputs[0].dim() == 4
    covariance = model.latent_dim ** (1 if model.elbo.covariance == "diagonal" else 2)
    of_one = covariance + sum(part.shape[1:].numel() for part in inputs)
    numbers = MOST_IMAGE_NUMBERS if on_cpu and images else MOST_NUMBERS
    return min(max(numbers // of_one, 1), MOST_SAMPLES if on_cpu else MOST_SAMPLES_OF_GPU)


@torch.no_grad()
def averages(model: VAE | CVAE, inputs: tuple[Tensor, ...], threshold: float, batch_size: int) -> ActiveDimensions:
    """What :func:`active_dimensions` says, of inputs as :func:`check_inputs` gives them, finite or not."""
    full = model.elbo.covariance == "cholesky"
    threshold = check_number("threshold", threshold, below=1)
    with evaluation_mode(model), dtype_explained(model, inputs):
        sums = torch.zeros(3, model.latent_dim, dtype=torch.float64, device=inputs[0].device)
        for batch in zip(*(part.split(batch_size) for part in inputs), strict=True):
            ratio = model.variance_ratio(*batch)
            spectrum = model.spectrum(*batch) if full else ratio.sort(dim=1).values
            sums += torch.stack([ratio.sum(dim=0), ratio.square().sum(dim=0), spectrum.sum(dim=0)])
    samples = len(inputs[0])
    variance, square, spectrum = (sums / samples).cpu()
    if samples > 1:
        error = ((square - variance.square()).clamp_min(0) / (samples - 1)).sqrt()
    else:
        error = torch.full_like(variance, torch.inf)
    return ActiveDimensions(variance, error, spectrum, threshold)
