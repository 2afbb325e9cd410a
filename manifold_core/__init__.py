"""Fused ELBO for Gaussian VAEs, and the dimension of a data manifold read off the trained model."""

__version__ = "0.1.0"

from .dimension import ActiveDimensions, active_dimensions
from .elbo import ELBOTerms, GaussianELBO
from .ensemble import ConvSpec, ModelSpec, SequentialSpec, TrainedModel, train_ensemble
from .errors import InputError
from .evaluation import Metrics, evaluate
from .kernels import gaussian_nll, rsample_kl, rsample_kl_cholesky
from .models import CVAE, VAE
from .run import load_model
from .sequential import EveryStepCVAE, SequentialCVAE
from .standard_prior import with_standard_prior
from .training import Diverged, History, TrainingConfig, train

__all__ = [
    "CVAE",
    "VAE",
    "ActiveDimensions",
    "ConvSpec",
    "Diverged",
    "ELBOTerms",
    "EveryStepCVAE",
    "GaussianELBO",
    "History",
    "InputError",
    "Metrics",
    "ModelSpec",
    "SequentialCVAE",
    "SequentialSpec",
    "TrainedModel",
    "TrainingConfig",
    "active_dimensions",
    "evaluate",
    "gaussian_nll",
    "load_model",
    "rsample_kl",
    "rsample_kl_cholesky",
    "train",
    "train_ensemble",
    "with_standard_prior",
]
