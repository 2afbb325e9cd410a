"""The models: encoder, decoder and ELBO put together, and what they are called with."""

from .cvae import CVAE, Prior
from .vae import VAE

__all__ = ["CVAE", "VAE", "Prior"]
