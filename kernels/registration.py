"""Glue between a registered operator and its autograd formula; one definition serves eager mode and torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .extension import compiled

__all__ = ["differentiable"]


def differentiable(
    name: str,
    fake: Callable[..., Any],
    fake_backward: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """The function that calls operator ``manifold_core::<name>``, with gradients.

    torch.compile, torch.func and tensor subclasses go through the operator, where torch knows its autograd formula. An
    ordinary eager call goes through an autograd.Function around the operator's kernel: the registered formula costs 20
    to 30 microseconds more a call, a third of the whole at B = 128.

    Args:
        name: the operator. ``<name>_forward`` is its kernel without autograd, ``<name>_backward`` that of the gradient.
        fake, fake_backward: shapes and dtypes of their outputs, from tensors without data.
        setup_context, backward: as of :func:`torch.library.register_autograd`.
    """
    if compiled is None:
        return _no_operator
    torch.library.register_fake(f"manifold_core::{name}", fake)
    torch.library.register_fake(f"manifold_core::{name}_forward", fake)
    torch.library.register_fake(f"manifold_core::{name}_backward", fake_backward)
    torch.library.register_autograd(f"manifold_core::{name}", backward, setup_context=setup_context)
    operator = getattr(torch.ops.manifold_core, name).default
    kernel = getattr(torch.ops.manifold_core, f"{name}_forward").default

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(once_differentiable(backward))}
    eager = type(f"{name}_eager", (torch.autograd.Function,), members).apply

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or type(inputs[0]) not in PLAIN:
            return operator(*inputs)
        return eager(*inputs)

    return call


PLAIN = (torch.Tensor, torch.nn.Parameter)


def _no_operator(*_: Any) -> Any:
    raise RuntimeError("the dispatcher chose a compiled kernel, but there is no compiled module")
