"""Remark 1: the prior of a CVAE can be moved into its encoder and decoder."""

import copy

import torch
from torch import Tensor, nn

from ..errors import InputError
from .checks import input_dtype, shape_of_one
from .cvae import CVAE
from .elbo import gated
from .inputs import unwrapped
from .sequential import EveryStepCVAE

__all__ = ["with_standard_prior"]


def with_standard_prior(model: CVAE) -> CVAE:
    """The same model with the prior N(0, I): for p(z|c) = N(m, s²), q(z|x, c) = N(μ, σ²) and attention a(c),

        q'(z|x, c) = N((μ − m) / s, σ² / s²),   x̂'(z, c) = x̂((m + s z) ⊙ a(c), c),

    and for a full covariance L Lᵀ, rows of L over s.

    For the same noise its loss and all its terms equal those of ``model`` but for rounding, as do its variance ratios
    and the samples it draws. Its ``terms.z`` is the standardised z, before the attention, which now belongs to the
    decoder: ``gate`` is None.

    So a learned prior adds no capacity to a CVAE; it may still change where training ends (Section 3.1).

    Args:
        model: any CVAE; it is copied, and training the result leaves it alone. If its prior is N(0, I) already, the
            result is the copy.

    Raises:
        InputError: the model is not a CVAE or is an :class:`EveryStepCVAE`.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Remark 1 and Appendix F.
    """
    inner = unwrapped(model)
    if not isinstance(inner, CVAE):
        raise InputError(f"model must be a CVAE, got {type(inner).__name__}")
    if isinstance(inner, EveryStepCVAE):
        raise InputError("model must be a CVAE with one prior per sample, got an EveryStepCVAE: it has one per step")
    model = copy.deepcopy(inner)
    if model.prior is None:
        return model
    kind = _StandardisedEncoder if model.elbo.covariance == "diagonal" else _StandardisedFullEncoder
    encoder = kind(model.encoder, model.prior, model.condition_shape)
    decoder = _StandardisedDecoder(model.decoder, model.prior, model.gate)
    found = CVAE(encoder, decoder, model.latent_dim, elbo=model.elbo)
    for part in (found, encoder, decoder):  # modules within may have another mode, frozen ones
        part.training = model.training
    return found


class _StandardisedEncoder(nn.Module):
    """(μ − m) / s and log σ² − log s²."""

    def __init__(self, encoder: nn.Module, prior: nn.Module, condition_shape: tuple[int | None, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.prior = prior
        self.condition_shape = condition_shape

    @property
    def input_dtype(self) -> torch.dtype | None:
        """That of x and c, as the encoder says."""
        return input_dtype(self.encoder)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """That of one x, as the encoder says."""
        return shape_of_one(self.encoder, "input_shape")

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.encoder(x, c)
        prior_mu, prior_log_var = self.prior(c)
        return (mu - prior_mu) * torch.exp(-prior_log_var / 2), log_var - prior_log_var


class _StandardisedFullEncoder(_StandardisedEncoder):
    """(μ − m) / s and the packed rows of diag(1/s) L, which has log L_jj − log s_j on its diagonal."""

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mu, tril = self.encoder(x, c)
        prior_mu, prior_log_var = self.prior(c)
        log_scale = -prior_log_var / 2
        row, col = torch.tril_indices(mu.shape[1], mu.shape[1], device=tril.device)
        of_row = log_scale[..., row]
        return (mu - prior_mu) * log_scale.exp(), torch.where(row == col, tril + of_row, tril * of_row.exp())


class _StandardisedDecoder(nn.Module):
    """x̂((m + s z) ⊙ a(c), c)."""

    def __init__(self, decoder: nn.Module, prior: nn.Module, gate: nn.Module | None) -> None:
        super().__init__()
        self.decoder = decoder
        self.prior = prior
        self.gate = gate

    @property
    def input_dtype(self) -> torch.dtype | None:
        """That of z, as the decoder says."""
        return input_dtype(self.decoder)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        prior_mu, prior_log_var = self.prior(c)
        z = prior_mu + torch.exp(prior_log_var / 2) * z
        if self.gate is not None:
            z = gated(z, self.gate(c))
        x_hat: Tensor = self.decoder(z, c)
        return x_hat
