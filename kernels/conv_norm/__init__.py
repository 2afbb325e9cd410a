from .op import conv_norm

__all__ = ["conv_norm"]
