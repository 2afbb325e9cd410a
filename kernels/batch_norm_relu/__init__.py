from .op import batch_norm_relu

__all__ = ["batch_norm_relu"]
