"""One definition of an operator, its schema, fake and autograd, serves eager mode, torch.compile and every backend."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["LIBRARIES", "Operator"]

# The backends that are operators, and the namespace of torch.ops each is found in. The dispatch key tells cpu and cuda
# apart: C++ registers itself for CPU, or CUDA, tensors.
LIBRARIES = {"cpu": "manifold_core", "cuda": "manifold_core", "triton": "manifold_core_triton"}
PLAIN = (Tensor, torch.nn.Parameter)


class Operator:
    """An operator with gradients: ``operator(backend, *inputs)``.

    torch.compile, torch.func and tensor subclasses go through the registered operator, where torch knows its autograd
    formula. An ordinary eager call goes through an autograd.Function around the kernel: the registered formula costs 20
    microseconds more, forward and backward, on top of 45 at B = 128.

    In each namespace there are ``<name>`` and, with a schema for it, ``<name>_backward``.

    Args:
        name: of the operator.
        schema: its arguments and results, as in ``torch.library.define``.
        fake: shapes and dtypes of its outputs, from tensors without data.
        setup_context: as of :func:`torch.library.register_autograd`.
        backward: ``backward(ops, ctx, *gradients)``, where ``ops`` has the operators of the same backend.
        backward_schema, fake_backward: of ``<name>_backward``, where there is one.
        results: how many of its outputs the caller wants; those behind are for the backward pass alone.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        fake: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        backward_schema: str | None = None,
        fake_backward: Callable[..., Any] | None = None,
        results: int = 2,
    ) -> None:
        self.name = name
        self.results = results
        self._schemas = {name: (schema, fake)}
        if backward_schema is not None:
            self._schemas[f"{name}_backward"] = (backward_schema, fake_backward)
        self._setup_context = setup_context
        self._backward = backward
        self._of_library = {library: self.define(library) for library in set(LIBRARIES.values())}
        self._of_backend = {backend: self._of_library[library] for backend, library in LIBRARIES.items()}
        for operator in self._schemas:
            for key in ("CUDA", "CPU"):  # the CPU in Triton's interpreter
                _implement(f"{LIBRARIES['triton']}::{operator}", key, partial(self._triton, operator))

    def __call__(self, backend: str, *inputs: Any) -> Any:
        operator, apply = self._of_backend[backend]
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if transformed or type(inputs[0]) not in PLAIN:
            return operator(*inputs)[: self.results]
        return apply(*inputs)

    def define(self, library: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Define the operators in that namespace of torch.ops; returns the registered one and the eager one."""
        for operator, (schema, fake) in self._schemas.items():
            torch.library.define(f"{library}::{operator}", schema)
            torch.library.register_fake(f"{library}::{operator}", fake)
        ops = getattr(torch.ops, library)
        backward = partial(self._backward, ops)
        torch.library.register_autograd(f"{library}::{self.name}", backward, setup_context=self._setup_context)
        if f"{self.name}_backward" in self._schemas:
            torch.library.register_autograd(f"{library}::{self.name}_backward", _refuse_second_derivative)
        for operator in self._schemas:
            kernel = getattr(ops, operator).default
            torch.library.register_vmap(f"{library}::{operator}", partial(_one_by_one, kernel))
        operator = getattr(ops, self.name).default
        return operator, self._eager(operator, backward)

    def _eager(self, operator: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
        setup_context, results = self._setup_context, self.results
        below_autograd = torch._C._AutoDispatchBelowAutograd  # the function is the formula

        def forward(ctx: Any, *inputs: Any) -> Any:
            with below_autograd():
                output = operator(*inputs)
            setup_context(ctx, inputs, output)
            return output[:results]

        def backward_once(ctx: Any, *gradients: Any) -> Any:
            if not torch.is_grad_enabled():
                with below_autograd():
                    return backward(ctx, *gradients)
            # create_graph=True: somebody may ask for a second derivative.
            with torch.no_grad():
                found = backward(ctx, *gradients)
            return tuple(None if g is None else _DifferentiableOnce.apply(g.detach().requires_grad_()) for g in found)

        members = {"forward": staticmethod(forward), "backward": staticmethod(backward_once)}
        function = type(f"{self.name}_eager", (torch.autograd.Function,), members)
        # The apply below Function's own, which only adds work for torch.func's wrappers; those go to the operator.
        return super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def _triton(self, operator: str, *inputs: Any) -> Any:
        """Triton is imported when it is first run, and not before."""
        module = importlib.import_module(f".{self.name}.triton", __package__)
        return getattr(module, operator)(*inputs)


def _implement(operator: str, key: str, function: Callable[..., Any]) -> None:
    torch.library.impl(operator, key)(function)


def _one_by_one(operator: Callable[..., Any], info: Any, in_dims: Any, *inputs: Any) -> Any:
    """torch.func.vmap: bit for bit what a loop gives, noise and all. A row's noise is a function of its number in its
    own batch, so batches cannot be joined."""

    def of(index: int) -> Any:
        pairs = zip(inputs, in_dims, strict=True)
        return operator(*(value if dim is None else value.select(dim, index) for value, dim in pairs))

    results = tuple(torch.stack(outputs) for outputs in zip(*map(of, range(info.batch_size)), strict=True))
    return results, (0,) * len(results)


ONCE = (
    "manifold_core: a compiled op is differentiable once, but a second derivative was asked for; "
    "backend='reference' has it"
)


def _refuse_second_derivative(ctx: Any, *_: Tensor) -> Any:
    raise RuntimeError(ONCE)


class _DifferentiableOnce(torch.autograd.Function):
    """A gradient that refuses to be differentiated. torch's once_differentiable lets it pass, without its share, when
    the incoming gradient needs none, as that of a loss does: a penalty on the gradient would do nothing, silently."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(ONCE)
