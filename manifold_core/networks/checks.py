"""What sizes networks can have."""

from collections.abc import Sequence

from ..arguments import check_positive, described
from ..errors import InputError

__all__ = ["check_image", "check_widths", "is_image"]


def check_widths(hidden: Sequence[int], name: str = "hidden") -> tuple[int, ...]:
    try:
        widths = {f"{name}[{i}]": width for i, width in enumerate(hidden)}
    except TypeError:
        raise InputError(
            f"{name} must be a sequence of positive integers, such as (64,), got {described(hidden)}"
        ) from None
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
