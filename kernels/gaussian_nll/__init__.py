from .op import gaussian_nll

__all__ = ["gaussian_nll"]
