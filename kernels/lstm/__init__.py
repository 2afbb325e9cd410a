from .op import lstm

__all__ = ["lstm"]
