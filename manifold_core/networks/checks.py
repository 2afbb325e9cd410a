"""What sizes and options networks can have."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..kernels import checks
from ..kernels.checks import integer

__all__ = ["check_flag", "check_image", "check_positive", "check_widths", "is_image"]


def check_positive(**sizes: int) -> tuple[int, ...]:
    """The sizes, of whatever type of integer they are. Raises InputError for any other number, and below 1."""
    found = {name: integer(size) for name, size in sizes.items()}
    for name, size in found.items():
        if size is None or size < 1:
            raise InputError(f"{name} must be a positive integer, got {sizes[name]!r}")
    return tuple(size for size in found.values() if size is not None)


def check_flag(name: str, value: object) -> bool:
    """The flag, of NumPy's type too. Raises InputError for anything else: "no" would be true."""
    flag = bool(value) if isinstance(value, np.bool_) else value
    try:
        checks.check_flag(name, flag)
    except TypeError as error:
        raise InputError(str(error)) from None
    return flag is True


def check_widths(hidden: Sequence[int], name: str = "hidden") -> tuple[int, ...]:
    try:
        widths = {f"{name}[{i}]": width for i, width in enumerate(hidden)}
    except TypeError:
        raise InputError(f"{name} must be a sequence of positive integers, such as (64,), got {hidden!r}") from None
    return check_positive(**widths)


def is_image(shape: Sequence[int]) -> bool:
    """Whether the residual networks, which halve the sides twice, take samples of this shape."""
    return len(shape) == 3 and shape[1] % 4 == 0 and shape[2] % 4 == 0


def check_image(image_shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        sizes = check_positive(**{str(i): size for i, size in enumerate(image_shape)})
    except (TypeError, ValueError):
        sizes = ()
    if not is_image(sizes):
        raise InputError(
            f"image_shape must be (channels, height, width) with height and width multiples of 4, got {image_shape!r}"
        )
    channels, height, width = sizes
    return channels, height, width
