"""The dimension of the data manifold at each sample, read off the decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .dimension import THRESHOLD, check_known, check_threshold, count_active, samples_at_a_time
from .inputs import check_inputs, unwrapped
from .models import CVAE, VAE
from .modes import evaluation_mode

__all__ = ["LocalDimensions", "local_dimensions", "of_decoder"]


@dataclass(frozen=True, eq=False)  # tensors have no one answer
class LocalDimensions:
    """Eigenvalues λ₁ ≤ … ≤ λ_κ of (I + JᵀJ/γ)⁻¹ at every sample, and what follows from them: see
    :func:`local_dimensions`.

    Attributes:
        spectrum: ``[κ]`` float64, ascending: the eigenvalues, in order and then averaged over the samples.
        counts: ``[N]`` int64, how many of them are below the threshold at each sample: the dimension of the manifold
            there. One of several pieces need not have the same everywhere.
        threshold: below it a direction is active.
    """

    spectrum: Tensor
    counts: Tensor
    threshold: float

    def __repr__(self) -> str:
        shares = ", ".join(f"{count}: {share:.3g}" for count, share in self.shares.items())
        spectrum = ", ".join(f"{value:.3g}" for value in self.spectrum.tolist())
        return (
            f"LocalDimensions(count={self.count}, shares={{{shares}}}, threshold={self.threshold}, "
            f"spectrum=[{spectrum}])"
        )

    @property
    def count(self) -> int:
        """The estimate of the manifold's dimension: averaged eigenvalues below the threshold."""
        return count_active(self.spectrum, self.threshold)

    @property
    def shares(self) -> dict[int, float]:
        """Dimension: the share of the samples that have it, ascending; together they are 1."""
        found, samples = self.counts.unique(return_counts=True)
        return {int(count): int(n) / len(self.counts) for count, n in zip(found, samples, strict=True)}


def local_dimensions(
    model: VAE | CVAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    threshold: float = THRESHOLD,
    batch_size: int | None = None,
) -> LocalDimensions:
    """#{j : E[λ_j(x)] < threshold}, λ_j(x) the eigenvalues of (I + JᵀJ/γ)⁻¹ in order, J = ∂x̂/∂z at z = μ(x). Of a CVAE
    those of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p(c), with J through the attention.

    (I + JᵀJ/γ)⁻¹ is the covariance of the posterior where the decoder is as good as linear. At the optimum a diagonal
    one has 1/(1 + (JᵀJ)_jj/γ), so that where the same axes carry the manifold at every sample the variances of
    :func:`active_dimensions` say the same. Of a sphere, or another manifold that no one chart covers, every axis is
    needed somewhere: all variances fall with γ, and their count is the dimension of the flat space around it. The
    eigenvalues are of each sample's own directions. As γ → 0 as many of them go to 0 as J has rank, and the others are
    1.

    The model is put into evaluation mode for the while. The decoder is passed through once for each sample and latent
    dimension: of images, a few hundred samples are enough.

    Args:
        model: trained; of one that is compiled or wrapped, the model within. Its decoder treats samples on their own,
            and has a derivative in forward mode (torch.autograd.forward_ad).
        x: ``[N, ...]``, N ≥ 1 samples.
        condition: ``[N, t]``, of a CVAE.
        threshold: between 0 and 1; 0.05, that of variances.
        batch_size: samples at a time, of which the decoder sees κ times as many; changes memory, and the result by
            rounding only. None is one κ-th of what :func:`active_dimensions` takes.

    Raises:
        InputError: as of :func:`active_dimensions`; a decoder without a derivative in forward mode, or with one that is
            not finite.

    Source: ours. The variances are those of "Learning Manifold Dimensions with Conditional Variational Autoencoders",
    Definition 3.
    """
    model = unwrapped(model)
    inputs = check_inputs(model, x, condition)
    check_threshold(threshold)
    found = of_decoder(model, inputs, threshold, batch_size)
    check_known(found.spectrum, "derivatives of its decoder")
    return found


@torch.no_grad()
def of_decoder(
    model: VAE | CVAE, inputs: tuple[Tensor, ...], threshold: float = THRESHOLD, batch_size: int | None = None
) -> LocalDimensions:
    """What :func:`local_dimensions` says, of inputs as :func:`check_inputs` gives them, finite or not."""
    rows = samples_at_a_time(model, inputs, batch_size)
    if batch_size is None:
        rows = max(rows // model.latent_dim, 1)
    total = torch.zeros(model.latent_dim, dtype=torch.float64, device=inputs[0].device)
    counts = []
    with evaluation_mode(model):
        for batch in zip(*(part.split(rows) for part in inputs), strict=True):
            eigenvalues = model.decoder_spectrum(*batch)
            total += eigenvalues.sum(dim=0)
            counts.append((eigenvalues < threshold).sum(dim=1))
    return LocalDimensions((total / len(inputs[0])).cpu(), torch.cat(counts).cpu(), threshold)
