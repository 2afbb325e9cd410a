from .op import gaussian_elbo

__all__ = ["gaussian_elbo"]
