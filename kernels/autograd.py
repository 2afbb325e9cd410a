"""Kernels made into functions that torch can differentiate, in eager mode and by the dispatcher."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

__all__ = ["Limits", "below_autograd", "eager", "empty_gradient", "one_by_one", "registered", "registered_once"]


class Limits(NamedTuple):
    """Which derivatives an op does not have: who asks for one is told, and told what has it. (The nodes in C++ say the
    first of these themselves.)"""

    name: str
    instead: str

    def refuse_second(self, *_: Any) -> Any:
        raise RuntimeError(
            f"manifold_core: {self.name} is differentiable once, but a second derivative was asked for; "
            f"{self.instead} has it. (In a compiled function torch.func.grad asks for one where its argument requires "
            "grad: give it detached.)"
        )

    def refuse_forward(self, *_: Any) -> Any:
        raise RuntimeError(
            f"manifold_core: {self.name} is differentiable in reverse mode, but a derivative in forward mode was asked "
            f"for, as torch.func.jvp, jacfwd and hessian do; {self.instead} has it"
        )

    def refuse_tangents(self, inputs: tuple[Any, ...]) -> None:
        """In an ordinary call, where torch would drop them silently: below autograd, or without a gradient."""
        if any(isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None for value in inputs):
            self.refuse_forward()


def below_autograd(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator's kernel: around it there is a formula already."""
    guard = torch._C._AutoDispatchBelowAutograd

    def kernel(*inputs: Any) -> Any:
        with guard():
            return operator(*inputs)

    return kernel


def eager(
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
        # create_graph=True: somebody may ask for a second derivative.
        with torch.no_grad():
            found = backward(ctx, *gradients)
        seen = [t for t in (*ctx.saved_tensors, *gradients) if t is not None and t.requires_grad]
        return tuple(None if g is None else _Once.apply(limits, g.detach(), *seen) for g in found)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward_once)}
    function = type(f"{limits.name}_eager", (torch.autograd.Function,), members)
    # The apply below Function's own, which only adds work for torch.func's wrappers.
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def registered(
    limits: Limits, kernel: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """For the dispatcher's key Autograd, which torch.compile and each transform of torch.func come by. The formula that
    torch.library.register_autograd makes drops tangents silently, and torch.func does not see through it."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        # Function has switched both off, for the transforms outside of this one as well.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output

    def backward_formula(ctx: Any, *gradients: Any) -> Any:  # for compiled autograd, which takes functions alone
        return backward(ctx, *gradients)

    members = {
        "forward": staticmethod(forward),
        "backward": staticmethod(backward_formula),
        "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
    }
    # Of a single transform: the dispatcher goes from one to the next, as it does for torch's own operators.
    function: Any = type(f"{limits.name}_registered", (_SingleLevelFunction,), members)

    def formula(*inputs: Any) -> Any:
        limits.refuse_tangents(inputs)
        if not torch.is_grad_enabled() or not any(isinstance(v, Tensor) and v.requires_grad for v in inputs):
            return kernel(*inputs)
        with enable_single_level_autograd_function():
            return function.apply(*inputs)

    return formula


def registered_once(limits: Limits, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the kernel of its backward pass, whose own derivative nobody has."""
    return registered(limits, kernel, lambda ctx, inputs, output: None, limits.refuse_second)


def empty_gradient(tensor: Tensor | None, like: Tensor, wanted: bool) -> Tensor:
    """Room for the gradient of an argument that need not be there; no elements where it is not wanted."""
    if tensor is None or not wanted:
        return like.new_empty(0, dtype=torch.float32)
    return tensor.new_empty(tensor.shape)


def one_by_one(function: Callable[..., Any], info: Any, in_dims: Any, *inputs: Any) -> Any:
    """torch.func.vmap: bit for bit what a loop gives, noise and all. A row's noise is a function of its number in its
    own batch, so batches cannot be joined."""
    size = info.batch_size
    pairs = list(zip(inputs, in_dims, strict=True))
    if size == 0:  # shapes and types are those of a call on zeros, which a sum over nothing gives
        pairs = [(value if dim is None else value.sum(dim, keepdim=True), dim) for value, dim in pairs]

    def of(index: int) -> Any:
        return function(*(value if dim is None else value.select(dim, index) for value, dim in pairs))

    calls = [of(index) for index in range(max(size, 1))]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls)[:size], 0
    results = tuple(torch.stack(outputs)[:size] for outputs in zip(*calls, strict=True))
    return results, (0,) * len(results)


class _Once(torch.autograd.Function):
    """A gradient that refuses to be differentiated by what it depends on. torch's once_differentiable lets it pass,
    without its share, when the incoming gradient needs none, as that of a loss does: a penalty on the gradient would do
    nothing, silently."""

    @staticmethod
    def forward(ctx: Any, limits: Limits, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        ctx.limits = limits
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        ctx.limits.refuse_second()
