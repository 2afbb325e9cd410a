"""The ops, a folder each, with the definition in plain PyTorch (``reference.py``). Imports nothing of manifold_core."""

if __name__ != "manifold_core.kernels":
    raise ImportError(f"this folder is the package manifold_core.kernels, but was imported as {__name__!r}")

from .conv_norm import conv_norm
from .conv_transpose import conv_transpose
from .dispatch import Backend
from .explain import Choice, explain
from .gaussian_elbo import gaussian_elbo
from .gaussian_nll import gaussian_nll
from .lstm import lstm
from .rsample_kl import rsample_kl
from .rsample_kl_cholesky import rsample_kl_cholesky

__all__ = [
    "Backend",
    "Choice",
    "conv_norm",
    "conv_transpose",
    "explain",
    "gaussian_elbo",
    "gaussian_nll",
    "lstm",
    "rsample_kl",
    "rsample_kl_cholesky",
]
