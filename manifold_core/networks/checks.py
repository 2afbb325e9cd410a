"""What sizes networks can have."""

from collections.abc import Sequence

from ..errors import InputError

__all__ = ["check_image", "check_positive", "check_widths"]


def check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{name} must be a positive integer, got {size!r}")


def check_widths(hidden: Sequence[int], name: str = "hidden") -> None:
    check_positive(**{f"{name}[{i}]": width for i, width in enumerate(hidden)})


def check_image(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[1] % 4 or image_shape[2] % 4:
        raise InputError(
            f"image_shape must be (channels, height, width) with height and width multiples of 4, "
            f"got {tuple(image_shape)}"
        )
    channels, height, width = image_shape
    return channels, height, width
