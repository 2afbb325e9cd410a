"""Values as a repr shows them: all the numbers of a batch, or of a data set, would fill the screen."""

from typing import Any

from torch import Tensor

__all__ = ["brief"]


def brief(value: Any) -> str:
    """A number in four digits, a tensor as its shape, or as its number if it has no dimensions."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if type(value) is tuple:
        return f"({', '.join(map(brief, value))})"
    if not isinstance(value, Tensor):
        return repr(value)
    if value.dim():
        return str(list(value.shape))
    try:
        return brief(value.item())
    except RuntimeError:  # on the device "meta", or of torch.func, no number can be read
        return "[]"
