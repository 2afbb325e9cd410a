from .op import conv_transpose

__all__ = ["conv_transpose"]
