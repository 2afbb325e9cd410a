"""One definition of an operator, its schema, fake and autograd, serves eager mode, torch.compile and every backend.

The ways into an op::

    public function, kernels/<op>/op.py
    ├── Operator.plain                  checks and kernel in C++ (csrc/autograd/plain.h): a plain call on the CPU
    └── checks in Python, then dispatch.choose
        ├── kernels/<op>/reference.py   backend "reference"
        └── Operator.__call__
            ├── Calls.registered        the torch.library operator: torch.compile, torch.func, tensor subclasses
            ├── Calls.kernel            its kernel, below autograd: gradients are disabled
            └── Calls.eager             an autograd node around the kernel, in C++ (csrc/autograd), else in Python:
                                        cheaper than the autograd formula of the registered operator
"""

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import extension
from .autograd import Limits, autograd_kernel, below_autograd, eager_node, vmap_by_loop

__all__ = ["LIBRARIES", "Calls", "Operator", "Schema"]

# The backends that are operators, and the namespace of torch.ops that each is found in. The dispatch key tells cpu and
# cuda apart: C++ registers kernels for CPU tensors or for CUDA tensors.
LIBRARIES = {"cpu": "manifold_core", "cuda": "manifold_core", "triton": "manifold_core_triton"}
# The types of a call's arguments unless one is a subclass, which has to see the operator.
ORDINARY = frozenset((Tensor, torch.nn.Parameter, type(None), bool, int, float))
PLAIN_BACKENDS = ("auto", "cpu")
# What has the derivatives that an op lacks. The op of a layer is called by a model, whose caller cannot name a backend.
REFERENCE = "backend='reference'"
LAYERS_BY_REFERENCE = f"{REFERENCE}, which manifold_core.networks.by_pytorch(model) sets for the layers of a model,"


class Schema(NamedTuple):
    """The signature of an operator, as in ``torch.library.define``, and its fake, which makes the results from tensors
    without data. An operator that only writes to its arguments has none: torch.compile and torch.func do not reach it.
    """

    text: str
    fake: Callable[..., Any] | None


class Calls(NamedTuple):
    """The ways to call an operator of one library."""

    registered: Callable[..., Any]
    kernel: Callable[..., Any]
    eager: Callable[..., Any]


class Operator:
    """An operator with gradients: ``operator(backend, *inputs)``.

    Args:
        name: of the operator.
        forward: its schema.
        setup_context: as in :func:`torch.library.register_autograd`.
        backward: ``backward(*backward_kernels, ctx, *gradients)``.
        results: how many of its outputs the caller gets; the others are for the backward pass only.
        layer: it computes a layer of a model, and has no Triton kernels.
        backward_kernels: name and schema of the operators that the backward pass calls; None for one that is defined
            elsewhere.
    """

    def __init__(
        self,
        name: str,
        forward: Schema,
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        *,
        results: int = 2,
        layer: bool = False,
        **backward_kernels: Schema | None,
    ) -> None:
        self.name = name
        self.limits = Limits(name, LAYERS_BY_REFERENCE if layer else REFERENCE)
        self.results = results
        self._setup_context = setup_context
        self._backward = backward
        self._backward_kernels = tuple(backward_kernels)
        # Its own comes last, since its autograd formula calls the others.
        self._schemas = {key: schema for key, schema in (backward_kernels | {name: forward}).items() if schema}
        self._plain = getattr(extension.nodes, f"plain_{name}", None)
        backends = {key: library for key, library in LIBRARIES.items() if key != "triton" or not layer}
        calls = {library: self.define(library) for library in set(backends.values())}
        self.by_backend = {backend: calls[library] for backend, library in backends.items()}
        for operator in () if layer else self._schemas:
            # On the CPU it runs in Triton's interpreter.
            implement = torch.library.impl(f"{LIBRARIES['triton']}::{operator}", ("CUDA", "CPU"))
            implement(partial(self._triton, operator))

    def plain(self, backend: str, *arguments: Any) -> Any:
        """What the public function returns for these arguments if the call is a plain one, as in a training loop on the
        CPU, which C++ both checks and serves (csrc/autograd/plain.h); None for every other call."""
        if torch.compiler.is_compiling() or backend not in PLAIN_BACKENDS:
            return None
        if self._plain is None or extension.compiled is None:
            return None
        return self._plain(*arguments)

    def __call__(self, backend: str, *inputs: Any) -> Any:
        calls = self.by_backend[backend]
        if (
            torch.compiler.is_compiling()
            or not ORDINARY.issuperset(map(type, inputs))
            or torch._C._are_functorch_transforms_active()
        ):
            return calls.registered(*inputs)[: self.results]
        if forward_ad._current_level >= 0:
            self.limits.refuse_tangents(inputs)
        if not torch.is_grad_enabled():  # autograd would take a quarter of the time of a small call
            return calls.kernel(*inputs)[: self.results]
        return calls.eager(*inputs)

    def define(self, library: str) -> Calls:
        """Define the operators in that namespace of torch.ops."""
        for name, schema in self._schemas.items():
            qualified = f"{library}::{name}"
            torch.library.define(qualified, schema.text)
            if schema.fake is None:
                continue
            torch.library.register_fake(qualified, schema.fake)
            function = _operator(library, name)
            kernel = below_autograd(function)
            if name == self.name:
                backward = partial(self._backward, *self._for_backward(library))
                formula = autograd_kernel(self.limits, kernel, self._setup_context, backward)
            else:
                formula = autograd_kernel(self.limits, kernel, lambda *_: None, self.limits.refuse_second)
            torch.library.impl(qualified, "Autograd", formula)
            torch.library.register_vmap(qualified, partial(vmap_by_loop, function))
        return self.calls(library, extension.nodes)

    def calls(self, library: str, nodes: ModuleType | None) -> Calls:
        """The ways to call the operator of that namespace, eagerly by a node of ``nodes`` if there is one for it."""
        operator = _operator(library, self.name)
        if len(operator._schema.returns) == 1:  # which torch returns without a tuple
            operator = partial(_in_tuple, operator)
        kernel = below_autograd(operator)
        node = getattr(nodes, self.name, None) if library == LIBRARIES["cpu"] else None
        if node is None:
            backward = partial(self._backward, *map(below_autograd, self._for_backward(library)))
            node = eager_node(self.limits, kernel, self._setup_context, backward, self.results)
        return Calls(operator, kernel, node)

    def _for_backward(self, library: str) -> list[Callable[..., Any]]:
        return [_operator(library, name) for name in self._backward_kernels]

    def _triton(self, operator: str, *inputs: Any) -> Any:
        """Imports Triton at the first run, no earlier. Triton launches on the current device."""
        module = importlib.import_module(f".{self.name}.triton", __package__)
        with torch.cuda.device_of(next(given for given in inputs if given is not None)):
            return getattr(module, operator)(*inputs)


def _operator(library: str, name: str) -> Any:
    return getattr(getattr(torch.ops, library), name).default


def _in_tuple(function: Callable[..., Any], *inputs: Any) -> tuple[Any]:
    return (function(*inputs),)
