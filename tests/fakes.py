"""Tensors without numbers."""

from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree


def assert_fake_results_are_like_real_ones(operator: Any, arguments: tuple[Any, ...], **mode_options: bool) -> None:
    """In shape, type, strides and device."""
    real = operator(*arguments)
    with FakeTensorMode(**mode_options) as mode:
        fake = operator(*(mode.from_tensor(v) if isinstance(v, Tensor) else v for v in arguments))
    for a, b in zip(*(pytree.tree_leaves(results) for results in (fake, real)), strict=True):
        assert (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)
