"""What sizes networks can have."""

from collections.abc import Sequence

from ..errors import InputError
from ..kernels.checks import integer

__all__ = ["check_image", "check_positive", "check_widths"]


def check_positive(**sizes: int) -> tuple[int, ...]:
    """The sizes, of whatever type of integer they are. Raises InputError for any other number, and below 1."""
    found = {name: integer(size) for name, size in sizes.items()}
    for name, size in found.items():
        if size is None or size < 1:
            raise InputError(f"{name} must be a positive integer, got {sizes[name]!r}")
    return tuple(size for size in found.values() if size is not None)


def check_widths(hidden: Sequence[int], name: str = "hidden") -> tuple[int, ...]:
    try:
        widths = {f"{name}[{i}]": width for i, width in enumerate(hidden)}
    except TypeError:
        raise InputError(f"{name} must be a sequence of positive integers, such as (64,), got {hidden!r}") from None
    return check_positive(**widths)


def check_image(image_shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        channels, height, width = check_positive(**{str(i): size for i, size in enumerate(image_shape)})
    except (TypeError, ValueError):
        channels = height = width = 0
    if not channels or height % 4 or width % 4:
        raise InputError(
            f"image_shape must be (channels, height, width) with height and width multiples of 4, got {image_shape!r}"
        )
    return channels, height, width
