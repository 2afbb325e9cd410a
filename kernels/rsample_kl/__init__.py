from .op import rsample_kl

__all__ = ["rsample_kl"]
