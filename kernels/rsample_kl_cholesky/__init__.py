from .op import rsample_kl_cholesky

__all__ = ["rsample_kl_cholesky"]
