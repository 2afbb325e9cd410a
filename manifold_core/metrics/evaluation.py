"""Measurements of a trained model."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_integer
from ..models import CVAE, VAE
from ..models.elbo import ELBOTerms
from ..models.inputs import check_inputs, unwrapped
from ..modes import evaluation_mode
from .active import THRESHOLD, averages, check_known, samples_at_a_time

__all__ = ["Metrics", "count_name", "evaluate", "in_batches", "metrics_of", "of_class"]


def count_name(*, full_covariance: bool) -> str:
    """The name of the count in :class:`Metrics` that a rotation of the latent space does not change."""
    return "spectrum_count" if full_covariance else "active_dimensions"


@dataclass(frozen=True)
class Metrics:
    """Averages over samples; nats.

    Attributes:
        neg_elbo: L = nll + kl, with one sample of z for each x.
        nll, kl: its two terms (β plays no part in what is measured).
        recon: ‖x − x̂‖².
        gamma: decoder variance.
        active_dimensions: latent dimensions of mean variance below ``threshold``.
        interval, spectrum_count, gap: see :class:`manifold_core.ActiveDimensions`. Like ``active_dimensions``, the last
            two are None if a variance or the loss is not finite, as in a model of an ensemble that diverged.
        variance: σ_j² over the prior's, averaged over the samples, per latent dimension.
        spectrum: eigenvalues of the posterior's covariance against the prior's, ascending, averaged likewise.
        samples: how many were averaged over.
    """

    neg_elbo: float
    nll: float
    kl: float
    recon: float
    gamma: float
    active_dimensions: int | None
    interval: tuple[int, int]
    spectrum_count: int | None
    gap: float | None
    threshold: float
    variance: list[float] = field(hash=False)  # a list has no hash
    spectrum: list[float] = field(hash=False)
    samples: int

    def __repr__(self) -> str:
        losses = ", ".join(f"{name}={getattr(self, name):.4g}" for name in ("neg_elbo", "nll", "kl", "recon", "gamma"))
        gap = "None" if self.gap is None else f"{self.gap:.3g}"
        variance = ", ".join(f"{value:.3g}" for value in self.variance)
        return (
            f"Metrics({losses}, active_dimensions={self.active_dimensions}, interval={self.interval}, gap={gap}, "
            f"spectrum_count={self.spectrum_count}, threshold={self.threshold}, variance=[{variance}], "
            f"samples={self.samples})"
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return asdict(self) | {"interval": list(self.interval)}  # as JSON gives it back


def evaluate(
    model: VAE | CVAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    threshold: float = THRESHOLD,
) -> Metrics:
    """L = (1/N) Σ_i (½ (‖x_i − x̂_i‖²/γ + d log 2πγ) + KL[q(z|x_i) ‖ p(z)]), nats, with its terms and the active
    dimensions, over all samples and with one draw of z for each, in evaluation mode. If a model is compiled or wrapped,
    the model within is measured. Sums are kept in float64 and a sample's noise depends on its row alone: the batch size
    (None: see :func:`manifold_core.active_dimensions`) changes rounding only.

    Args:
        model: a VAE or CVAE.
        x: ``[N, ...]`` samples, of the dtype that the model reads, on its device.
        condition: ``[N, t]``, of a CVAE.
        seed: of the noise, from 0 to 2⁶³ − 1.
        batch_size: samples at a time.
        threshold: dimensions with a variance below it are active.

    Returns:
        :class:`Metrics`.

    Raises:
        InputError: no samples, or one that is not finite, a condition that does not go with model and samples, a
            seed out of range, a batch size below 1, or a threshold outside (0, 1); a variance that is not finite.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equations (1) and (2), Appendix B.
    """
    # without one the noise would be PyTorch's, and differ each time
    number = check_integer("seed", seed, 0, 2**63 - 1)
    model = unwrapped(model)
    found = metrics_of(model, check_inputs(model, x, condition), number, batch_size, threshold)
    check_known(found.variance)
    return found


def in_batches(model: VAE | CVAE, inputs: tuple[Tensor, ...], seed: int, batch_size: int) -> Iterator[ELBOTerms]:
    """What the model says of this many samples at a time. The noise of a sample is that of its row among all."""
    for first in range(0, len(inputs[0]), batch_size):
        yield model(*(part[first : first + batch_size] for part in inputs), seed=seed, first_row=first)


@torch.no_grad()
def metrics_of(
    model: VAE | CVAE,
    inputs: tuple[Tensor, ...],
    seed: int = 0,
    batch_size: int | None = None,
    threshold: float = THRESHOLD,
) -> Metrics:
    """The same for a model that may have diverged, with inputs as :func:`check_inputs` gives them: if nothing can be
    said of its dimensions, it says None. Waits for the device twice, however many batches there are."""
    samples, batch_size = len(inputs[0]), samples_at_a_time(model, inputs, batch_size)
    dimensions = averages(model, inputs, threshold, batch_size)
    with evaluation_mode(model):
        sums = torch.zeros(3, dtype=torch.float64, device=inputs[0].device)
        for terms in in_batches(model, inputs, seed, batch_size):
            sums += torch.stack([term.double().sum() for term in (terms.nll, terms.kl, terms.recon)])
    gammas = terms.log_gamma.double().exp().reshape(1)  # in evaluation mode the same in every batch
    nll, kl, recon, gamma = torch.cat((sums / samples, gammas)).tolist()
    known = math.isfinite(nll + kl) and bool(dimensions.variance.isfinite().all())
    return Metrics(
        neg_elbo=nll + kl,
        nll=nll,
        kl=kl,
        recon=recon,
        gamma=gamma,
        active_dimensions=dimensions.count if known else None,
        interval=dimensions.interval,
        spectrum_count=dimensions.spectrum_count if known else None,
        gap=dimensions.gap if known else None,
        threshold=dimensions.threshold,
        variance=dimensions.variance.tolist(),
        spectrum=dimensions.spectrum.tolist(),
        samples=samples,
    )


def of_class(inputs: tuple[Tensor, ...], labels: Tensor, label: int) -> tuple[Tensor, ...]:
    """The inputs of a model that belong to samples with this label."""
    own = labels == label
    return tuple(part[own.to(part.device)] for part in inputs)
