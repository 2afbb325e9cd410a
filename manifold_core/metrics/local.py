"""The dimension of the data manifold where a sample is, read off the decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..models import CVAE, VAE
from ..models.inputs import check_inputs, dtype_explained, unwrapped
from ..modes import evaluation_mode
from .active import THRESHOLD, samples_at_a_time
from .subset import some_of

__all__ = ["CLEAR", "MOST", "LocalDimensions", "in_words", "is_clear", "local_dimensions", "local_dimensions_of_some"]

MOST_PASSES = 2**14  # through the decoder, for a look: of images, which take their time, 2**12
MOST_PASSES_OF_IMAGES = 2**12
MOST_NUMBERS = 2**22  # of derivatives at a time
CLEAR = 8.0  # a gap: of the 54 manifolds of benchmarks/estimators.py, read right from 7.1 on, below 6.3 none
# Of the samples. Among the 46 that are read right, 40 have that share; the other six, to which no network has bent all
# the way, 21 to 61 %.
MOST = 2 / 3


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class LocalDimensions:
    """Eigenvalues λ₁ ≤ … ≤ λ_κ of (I + JᵀJ/γ)⁻¹ at every sample, and what follows from them: see
    :func:`local_dimensions`.

    Attributes:
        spectrum: ``[κ]`` float64, ascending: the eigenvalues, in order and then averaged over the samples.
        counts: ``[N]`` int64, how many stand before the widest gap at each sample looked at, in their order (for a
            search, some that it drew). A manifold of several pieces, or one that crosses itself, need not have the same
            dimension everywhere: ``shares`` says how many samples have which.
        spectrum_of_most: ``[κ]``, as ``spectrum``, over the samples that have the most frequent of ``counts``.
    """

    spectrum: Tensor
    counts: Tensor
    spectrum_of_most: Tensor

    def __repr__(self) -> str:
        gap = "None" if self.gap is None else f"{self.gap:.3g}"
        shares = ", ".join(f"{count}: {share:.3g}" for count, share in self.shares.items())
        spectrum = ", ".join(f"{value:.3g}" for value in self.spectrum.tolist())
        return f"LocalDimensions(count={self.count}, gap={gap}, shares={{{shares}}}, spectrum=[{spectrum}])"

    @property
    def count(self) -> int:
        """The estimate of the manifold's dimension, whatever its shape: how many averaged eigenvalues stand before the
        widest gap. If two thirds of the samples agree on another number, and the mean over these has no clear gap
        there, it is theirs: the others are then a piece of another dimension."""
        return self._read[0]

    @property
    def gap(self) -> float | None:
        """λ_{r+1}/λ_r of the averaged eigenvalues that give the count r: how far apart the two kinds are. Below 8 they
        are not, and the count is a guess. None if the count is 0."""
        return self._read[1]

    @property
    def _read(self) -> tuple[int, float | None]:
        count, spectrum = int(_before_the_widest_gap(self.spectrum)), self.spectrum
        most, share = max(self.shares.items(), key=lambda one: one[1])
        if share >= MOST and (_gap_behind(self.spectrum_of_most, count) or 0) < CLEAR:
            count, spectrum = most, self.spectrum_of_most
        return count, _gap_behind(spectrum, count)

    @property
    def share(self) -> float:
        """Share of the samples whose dimension is the count: if it is far from 1, the manifold has pieces of several
        dimensions, or the network cannot tell."""
        return self.shares.get(self.count, 0.0)

    @property
    def clear(self) -> bool:
        """Whether the decoder leaves no doubt: a gap of 8 or more, and that count at two thirds of the samples."""
        return is_clear(self.gap, self.share)

    @property
    def shares(self) -> dict[int, float]:
        """Dimension: the share of the samples that have it, ascending; together they are 1."""
        found, samples = self.counts.unique(return_counts=True)
        return {int(count): int(n) / len(self.counts) for count, n in zip(found, samples, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return {
            "count": self.count,
            "gap": self.gap,
            "clear": self.clear,
            "share": self.share,
            "shares": {str(count): share for count, share in self.shares.items()},
            "spectrum": self.spectrum.tolist(),
            "samples": len(self.counts),
        }


def local_dimensions(
    model: VAE | CVAE, x: Tensor, condition: Tensor | None = None, *, batch_size: int | None = None
) -> LocalDimensions:
    """The dimension from the rank of the decoder's derivative: argmax_r λ_{r+1}/λ_r, where λ_j is E[λ_j(x)], λ_j(x) the
    eigenvalues of (I + JᵀJ/γ)⁻¹ in ascending order, J = ∂x̂/∂z at z = μ(x), and λ_{κ+1} = 1; 0 if λ₁ is not below 0.05.
    For a CVAE, the eigenvalues of (I + S JᵀJ S/γ)⁻¹, S = diag σ_p(c), with J through the attention.

    (I + JᵀJ/γ)⁻¹ is the covariance of the posterior if the decoder is nearly linear. At the optimum a diagonal one has
    1/(1 + (JᵀJ)_jj/γ): these are the variances of :func:`active_dimensions` if the same axes carry the manifold at
    every sample. On a sphere, or another manifold that no one chart covers, every axis is needed somewhere: all
    variances may fall with γ, and their count may be the dimension of the flat space around it. The eigenvalues follow
    each sample's own directions. As γ → 0 as many of them fall with it as J has rank, and the others stay: the gap
    between the two grows as 1/γ. It is a gap and not a threshold, since of many similar eigenvalues the last in order
    may lie above any. Before γ is small enough, a direction in which the manifold is far narrower than in the others
    may fall behind the widest gap: if γ > s_r⁴/s_{r−1}², s being the singular values of J.

    The gap is that of the means, since a network that has not bent all the way has a dimension too many at most
    samples, with an eigenvalue that is large at the others. But if a tenth of the samples is a piece of fewer
    dimensions, the mean has its widest gap behind these, the wider the smaller γ is, while the other samples have none
    there: then their number counts.

    The model is put into evaluation mode meanwhile. The decoder is run once per sample and latent dimension: for
    images, a few hundred samples are enough. A decoder without a forward-mode derivative (torch.autograd.forward_ad),
    as attention has none, or with another one than in reverse mode, which training follows, is run forward and back
    once per sample and feature.

    Args:
        model: trained; if compiled or wrapped, the model within is read. Its decoder treats samples separately.
        x: ``[N, ...]``, N ≥ 1 samples.
        condition: ``[N, t]``, of a CVAE.
        batch_size: samples at a time, of which the decoder sees κ times as many; affects memory, and the result by
            rounding only. None takes one κ-th of what :func:`active_dimensions` takes, or with many features as few as
            have 2²² derivatives, and at least one.

    Raises:
        InputError: as by :func:`active_dimensions`; a decoder without a derivative, or with one that is not finite.

    Source: ours. The variances are those of "Learning Manifold Dimensions with Conditional Variational Autoencoders",
    Definition 3.
    """
    model = unwrapped(model)
    found = _of(model, check_inputs(model, x, condition), batch_size)
    if not found.spectrum.isfinite().all():
        raise InputError("model must have a decoder with a finite derivative at every sample, got one that is not")
    return found


def local_dimensions_of_some(model: VAE | CVAE, inputs: tuple[Tensor, ...]) -> LocalDimensions:
    """What :func:`local_dimensions` says of some of the samples, at random, always the same; of inputs as
    :func:`check_inputs` gives them, finite or not."""
    passes = MOST_PASSES_OF_IMAGES if inputs[0].dim() == 4 else MOST_PASSES
    return _of(model, some_of(inputs, max(passes // model.latent_dim, 1)), None)


def is_clear(gap: float | None, share: float) -> bool:
    """See :attr:`LocalDimensions.clear`."""
    return gap is not None and gap >= CLEAR and share >= MOST


def in_words(shares: Mapping[int, float]) -> str:
    """Which dimensions the samples have, the most frequent first; without those of fewer than one in twenty."""
    often = sorted((-share, count) for count, share in shares.items() if share >= 0.05)
    return ", ".join(f"{count} at {-100 * share:.0f} %" for share, count in often)


@torch.no_grad()
def _of(model: VAE | CVAE, inputs: tuple[Tensor, ...], batch_size: int | None) -> LocalDimensions:
    rows = samples_at_a_time(model, inputs, batch_size)
    if batch_size is None:
        kappa = model.latent_dim
        rows = max(min(rows // kappa, MOST_NUMBERS // (kappa * inputs[0][0].numel())), 1)
    sums: dict[int, Tensor] = {}  # over the samples of each count that occurs
    counts = []
    with evaluation_mode(model), dtype_explained(model, inputs):
        for batch in zip(*(part.split(rows) for part in inputs), strict=True):
            eigenvalues = model.decoder_spectrum(*batch).cpu()
            counts.append(_before_the_widest_gap(eigenvalues))
            for count in counts[-1].unique().tolist():
                sums[count] = sums.get(count, 0) + eigenvalues[counts[-1] == count].sum(dim=0)
    found = torch.cat(counts)
    most = int(found.mode().values)
    spectrum = torch.stack(list(sums.values())).sum(dim=0) / len(found)
    return LocalDimensions(spectrum, found, sums[most] / int((found == most).sum()))


def _gap_behind(spectrum: Tensor, count: int) -> float | None:
    values = [*spectrum.tolist(), 1.0]
    return values[count] / values[count - 1] if count else None


def _before_the_widest_gap(spectrum: Tensor) -> Tensor:
    """How many of ``[..., κ]``, ascending; 0 if not even the first is below the threshold."""
    behind = torch.nn.functional.pad(spectrum[..., 1:], (0, 1), value=1.0)
    return torch.where(spectrum[..., 0] < THRESHOLD, (behind / spectrum).argmax(dim=-1) + 1, 0)
