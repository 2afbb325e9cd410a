"""Kernels made into functions that torch can differentiate, in eager mode and by the dispatcher."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

__all__ = ["Limits", "autograd_kernel", "below_autograd", "eager_node", "empty_gradient", "vmap_by_loop"]


class Limits(NamedTuple):
    """The derivatives that an op lacks: asking for one raises an error that names what has it. (The nodes in C++ raise
    the first of these errors themselves.)"""

    name: str
    alternative: str

    def refuse_second(self, *_: Any) -> Any:
        raise RuntimeError(
            f"manifold_core: {self.name} is differentiable once, but a second derivative was asked for; "
            f"{self.alternative} has it. (In a compiled function torch.func.grad asks for one where its argument "
            "requires grad: give it detached.)"
        )

    def refuse_forward(self, *_: Any) -> Any:
        raise RuntimeError(
            f"manifold_core: {self.name} is differentiable in reverse mode, but a derivative in forward mode was asked "
            f"for, as torch.func.jvp, jacfwd and hessian do; {self.alternative} has it"
        )

    def refuse_tangents(self, inputs: tuple[Any, ...]) -> None:
        """For a call below autograd or without gradients, where torch would drop the tangents silently."""
        if any(isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None for value in inputs):
            self.refuse_forward()


def below_autograd(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator's kernel, for a caller that has its own autograd formula."""
    guard = torch._C._AutoDispatchBelowAutograd

    def kernel(*inputs: Any) -> Any:
        with guard():
            return operator(*inputs)

    return kernel


def eager_node(
    limits: Limits,
    kernel: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    results: int,
) -> Callable[..., Any]:
    """For an ordinary call: ``setup_context`` sees all outputs of the kernel, the caller the first ``results``."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output[:results]

    def backward_once(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        # create_graph=True: a second derivative may be asked for.
        with torch.no_grad():
            found = backward(ctx, *gradients)
        seen = [t for t in (*ctx.saved_tensors, *gradients) if t is not None and t.requires_grad]
        return tuple(None if g is None else _FirstDerivativeOnly.apply(limits, g.detach(), *seen) for g in found)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward_once)}
    function = type(f"{limits.name}_eager", (torch.autograd.Function,), members)
    # Not Function.apply but the apply beneath it: the former only adds work for torch.func's wrappers.
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def autograd_kernel(
    limits: Limits, kernel: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """For the dispatch key Autograd, which torch.compile and each transform of torch.func go through. The formula that
    torch.library.register_autograd makes drops tangents silently, and torch.func does not see through it."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        # Function has disabled both, for outer transforms as well.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output

    def backward_formula(ctx: Any, *gradients: Any) -> Any:  # compiled autograd takes functions only, no partial
        return backward(ctx, *gradients)

    members = {
        "forward": staticmethod(forward),
        "backward": staticmethod(backward_formula),
        "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
    }
    # For a single transform: the dispatcher goes from one to the next, as it does for torch's own operators.
    function: Any = type(f"{limits.name}_registered", (_SingleLevelFunction,), members)

    def formula(*inputs: Any) -> Any:
        limits.refuse_tangents(inputs)
        if not torch.is_grad_enabled() or not any(isinstance(v, Tensor) and v.requires_grad for v in inputs):
            return kernel(*inputs)
        with enable_single_level_autograd_function():
            return function.apply(*inputs)

    return formula


def empty_gradient(tensor: Tensor | None, like: Tensor, wanted: bool) -> Tensor:
    """Room for the gradient of an optional argument; without elements if it is not wanted."""
    if tensor is None or not wanted:
        return like.new_empty(0, dtype=torch.float32)
    return tensor.new_empty(tensor.shape)


def vmap_by_loop(function: Callable[..., Any], info: Any, in_dims: Any, *inputs: Any) -> Any:
    """torch.func.vmap: bit for bit what a loop gives, including the noise. The noise of a row depends on its number in
    its own batch, so batches cannot be joined."""
    size = info.batch_size
    pairs = list(zip(inputs, in_dims, strict=True))
    if size == 0:  # a call on zeros, which a sum over nothing gives, has the right shapes and dtypes
        pairs = [(value if dim is None else value.sum(dim, keepdim=True), dim) for value, dim in pairs]

    def call(index: int) -> Any:
        return function(*(value if dim is None else value.select(dim, index) for value, dim in pairs))

    calls = [call(index) for index in range(max(size, 1))]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls)[:size], 0
    results = tuple(torch.stack(outputs)[:size] for outputs in zip(*calls, strict=True))
    return results, (0,) * len(results)


class _FirstDerivativeOnly(torch.autograd.Function):
    """A gradient that refuses to be differentiated with respect to what it depends on. torch's once_differentiable
    does not refuse if the incoming gradient requires none, as that of a loss: a gradient penalty would then have no
    effect, silently."""

    @staticmethod
    def forward(ctx: Any, limits: Limits, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        ctx.limits = limits
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        ctx.limits.refuse_second()
