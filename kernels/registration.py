"""One definition of an operator, its schema, fake and autograd, serves eager mode, torch.compile and every backend."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import extension
from .autograd import Limits, below_autograd, eager, one_by_one, registered, registered_once

__all__ = ["LAYERS_BY_REFERENCE", "LIBRARIES", "Operator"]

# The backends that are operators, and the namespace of torch.ops each is found in. The dispatch key tells cpu and cuda
# apart: C++ registers itself for CPU, or CUDA, tensors.
LIBRARIES = {"cpu": "manifold_core", "cuda": "manifold_core", "triton": "manifold_core_triton"}
NODES = "manifold_core"  # the namespace that the nodes in C++ call
# The types of a call's arguments where none is a subclass, which has to see the operator.
ORDINARY = frozenset((Tensor, torch.nn.Parameter, type(None), bool, int, float))
PLAIN_BACKENDS = ("auto", "cpu")
# What has the derivatives that an op lacks; the ops of layers are called by a model, out of reach of its caller.
REFERENCE = "backend='reference'"
LAYERS_BY_REFERENCE = f"{REFERENCE}, which manifold_core.networks.by_pytorch(model) sets for the layers of a model,"


class Calls(NamedTuple):
    """The ways to call an operator of one library."""

    registered: Callable[..., Any]
    kernel: Callable[..., Any]
    eager: Callable[..., Any]


class Operator:
    """An operator with gradients: ``operator(backend, *inputs)``.

    torch.compile, torch.func and tensor subclasses go through the registered operator, where torch knows its autograd
    formula. An ordinary eager call goes through a node in C++ (csrc/autograd), or where that is not built through an
    autograd.Function around the kernel: either costs less than the registered formula.

    In each namespace there are ``<name>`` and, with a schema for it, ``<name>_backward``.

    Args:
        name: of the operator.
        schema: its arguments and results, as in ``torch.library.define``.
        fake: shapes and dtypes of its outputs, from tensors without data.
        setup_context: as of :func:`torch.library.register_autograd`.
        backward: ``backward(kernel, *in_place, ctx, *gradients)``, where ``kernel`` is operator ``<name>_backward``.
        backward_schema, fake_backward: of ``<name>_backward``; None where ``backward`` calls that of another operator.
        backward_of: the name of that other operator.
        in_place: names and schemas of further operators for the backward pass, of kernels for GPUs, that write to their
            arguments and give nothing.
        results: how many of its outputs the caller wants; those behind are for the backward pass alone.
        backends: those that have it.
        instead: what has the derivatives that it does not have.
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
        backward_of: str | None = None,
        in_place: Mapping[str, str] | None = None,
        results: int = 2,
        backends: Sequence[str] = tuple(LIBRARIES),
        instead: str = REFERENCE,
    ) -> None:
        self.name = name
        self.limits = Limits(name, instead)
        self.results = results
        self._schemas: dict[str, tuple[str, Any]] = {name: (schema, fake)}
        if backward_schema is not None:
            self._schemas[f"{name}_backward"] = (backward_schema, fake_backward)
        self._setup_context = setup_context
        self._backward = backward
        self._backward_name = f"{backward_of or name}_backward"
        self._in_place = dict(in_place or {})
        self._plain = getattr(extension.nodes, f"plain_{name}", None)
        libraries = {LIBRARIES[backend] for backend in backends}
        self._of_library = {library: self.define(library) for library in libraries}
        self._of_backend = {backend: self._of_library[LIBRARIES[backend]] for backend in backends}
        for operator in (*self._schemas, *self._in_place) if "triton" in backends else ():
            # On the CPU it runs in Triton's interpreter.
            implement = torch.library.impl(f"{LIBRARIES['triton']}::{operator}", ("CUDA", "CPU"))
            implement(partial(self._triton, operator))

    def plain(self, backend: str, *arguments: Any) -> Any:
        """What the public function gives for these arguments of its own, where the call is a plain one, of a training
        loop on the CPU, that needs no checks (csrc/autograd/plain.h); None for every other call."""
        if torch.compiler.is_compiling() or backend not in PLAIN_BACKENDS:
            return None
        if self._plain is None or extension.compiled is None:
            return None
        return self._plain(*arguments)

    def __call__(self, backend: str, *inputs: Any) -> Any:
        calls = self._of_backend[backend]
        if (
            torch.compiler.is_compiling()
            or not ORDINARY.issuperset(map(type, inputs))
            or torch._C._are_functorch_transforms_active()
        ):
            return calls.registered(*inputs)[: self.results]
        if forward_ad._current_level >= 0:
            self.limits.refuse_tangents(inputs)
        if not torch.is_grad_enabled():  # a quarter of a small call would be autograd's
            return calls.kernel(*inputs)[: self.results]
        return calls.eager(*inputs)

    def define(self, library: str) -> Calls:
        """Define the operators in that namespace of torch.ops."""
        for operator, (schema, fake) in self._schemas.items():
            torch.library.define(f"{library}::{operator}", schema)
            torch.library.register_fake(f"{library}::{operator}", fake)
        for operator, schema in self._in_place.items():
            torch.library.define(f"{library}::{operator}", schema)
        ops = getattr(torch.ops, library)
        backward = partial(self._backward, *self._for_backward(library))
        for operator in self._schemas:
            function = getattr(ops, operator).default
            kernel = below_autograd(function)
            if operator == self.name:
                formula = registered(self.limits, kernel, self._setup_context, backward)
            else:
                formula = registered_once(self.limits, kernel)
            torch.library.impl(f"{library}::{operator}", "Autograd", formula)
            torch.library.register_vmap(f"{library}::{operator}", partial(one_by_one, function))
        return self.calls(library, extension.nodes)

    def calls(self, library: str, nodes: ModuleType | None) -> Calls:
        """How the operators of that namespace are called, eagerly by those nodes where they have it."""
        ops = getattr(torch.ops, library)
        operator = getattr(ops, self.name).default
        if len(operator._schema.returns) == 1:  # which torch hands over as it is
            operator = partial(_in_tuple, operator)
        run, for_backward = below_autograd(operator), map(below_autograd, self._for_backward(library))
        node = getattr(nodes, self.name, None) if library == NODES else None
        return Calls(
            operator,
            run,
            node or eager(self.limits, run, self._setup_context, partial(self._backward, *for_backward), self.results),
        )

    def _for_backward(self, library: str) -> list[Callable[..., Any]]:
        """The operators that the backward pass calls."""
        names = [self._backward_name, *self._in_place]
        return [getattr(getattr(torch.ops, library), name).default for name in names]

    def _triton(self, operator: str, *inputs: Any) -> Any:
        """Triton is imported when it is first run, and not before. It launches on the current device."""
        module = importlib.import_module(f".{self.name}.triton", __package__)
        with torch.cuda.device_of(next(given for given in inputs if given is not None)):
            return getattr(module, operator)(*inputs)


def _in_tuple(function: Callable[..., Any], *inputs: Any) -> tuple[Any]:
    return (function(*inputs),)
