"""The models that a configuration describes."""

from collections.abc import Sequence
from typing import Any

import torch

from ..ensemble import ConvSpec, ModelSpec
from ..models import CVAE, VAE
from ..networks.checks import is_image
from ..training import TrainingConfig
from .config import ModelConfig

__all__ = ["build_model", "is_convolutional", "spec_of"]


def is_convolutional(hidden: Sequence[int] | None, sample_shape: Sequence[int]) -> bool:
    """Whether the model for samples of this shape is a residual network, not an MLP; ``hidden``: the MLP's widths."""
    return hidden is None and is_image(sample_shape)


def build_model(config: ModelConfig, sample_shape: Sequence[int], seed: int = 0, condition_dim: int = 0) -> VAE | CVAE:
    """The model for samples of this shape, with conditions of this many numbers if there are any, its weights drawn
    from ``seed``."""
    spec = spec_of(config, sample_shape, condition_dim, TrainingConfig(seed=seed))
    if isinstance(spec, ConvSpec):
        return spec.build(*sample_shape)
    return spec.build(torch.Size(sample_shape).numel())


def spec_of(
    model: ModelConfig, sample_shape: Sequence[int], condition_dim: int, training: TrainingConfig
) -> ModelSpec | ConvSpec:
    """The specification of one of the run's models, for samples of this shape and conditions of this many numbers."""
    each: dict[str, Any] = {"gamma": model.gamma, "log_gamma": model.log_gamma, "covariance": model.covariance}
    if (under := model.condition) is not None:
        each |= {"condition_dim": condition_dim, "prior": under.prior, "attention": under.attention}
    if is_convolutional(model.hidden, sample_shape):
        return ConvSpec(model.latent_dim, model.chosen_channels, training=training, **each)
    hidden = (64,) if model.hidden is None else model.hidden
    return ModelSpec(model.latent_dim, hidden, training=training, **each)
