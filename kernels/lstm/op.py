"""``lstm``: an LSTM over the steps of sequences, the network of Table 8."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import check_floating
from ..dispatch import Backend, Reasoned, choose_for_layer
from ..registration import Operator, Schema
from . import reference

__all__ = ["choose_for_sequences", "for_sequences", "lstm"]

CPU_DTYPES = frozenset((torch.float32,))
COLUMNS, KEPT = 64, 5  # kLstmColumns and kLstmKept in csrc/cpu/kernels.h

# How many times faster than PyTorch's LSTM ours is, of 20 steps of 10 inputs, on two cores of an EPYC with AVX2,
# forward and backward. Ours works on 16 samples at a time with AVX2, on 64 with AVX-512, and takes as long for fewer.
#   32 units: 1.2 at B = 1, 1.7 at 4, 1.8 at 16;  48: 0.8 at 1;  64: 0.6 at 1, 0.9 at 8, 1.2 at 16, 1.1 at 32
#   128 units: 0.3 at 1, 0.7 at 32, 0.8 at 64, 1.4 at 128, 2.0 at 256;  256: 0.7 at 64, 1.4 at 128, 1.2 at 512
#   512 units: 0.1 at 1, 0.2 at 32, 0.6 at 128, 0.7 at 256
FEWEST_SAMPLES = {32: 1, 64: 16, 256: 128}  # up to this many units: from this many samples on
MOST_PADDING = 2**24  # elements kept for samples that only fill up a tile


def choose_for_sequences(backend: Backend, x: Tensor, *weights: Tensor) -> Backend:
    """The name that :func:`for_sequences` gives."""
    return for_sequences(backend, x, *weights)[0]


def for_sequences(backend: Backend, x: Tensor, *weights: Tensor) -> Reasoned:
    """:func:`choose_for_layer` for the arguments of :func:`lstm`."""
    return choose_for_layer(backend, (x, *weights), backends=("cpu",), dtypes=CPU_DTYPES, slower=_slower)


def _slower(tensors: tuple[Tensor, ...]) -> Callable[[], str] | None:
    x, _, weight_hh, *_ = tensors
    (samples, steps, _), hidden = x.shape, weight_hh.shape[1]
    padding = -samples % COLUMNS
    kept = padding * steps * KEPT * hidden
    if padding > samples and kept > MOST_PADDING:
        return lambda: f"{padding} samples that fill up a tile would take {kept:,} numbers, more than {MOST_PADDING:,}"
    for units, fewest in FEWEST_SAMPLES.items():
        if hidden <= units:
            if samples >= fewest:
                return None
            return lambda: f"PyTorch is faster with {hidden} units and {samples} samples, fewer than {fewest}"
    return lambda: f"PyTorch is faster with {hidden} units, more than {max(FEWEST_SAMPLES)}"


def _fake(
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    batch, length, _ = x.shape
    hidden, tiles = weight_hh.shape[1], (batch + COLUMNS - 1) // COLUMNS
    kept = x.new_empty(tiles, length if keep else 1, KEPT * hidden, COLUMNS)
    return x.new_empty(batch, length, hidden), kept


def _fake_backward(
    grad_y: Tensor, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, kept: Tensor, with_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x) if with_x else x.new_empty(0)
    return grad_x, torch.empty_like(weight_ih), torch.empty_like(weight_hh), x.new_empty(weight_hh.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    # The biases only so that a second derivative is refused: the gradients depend on them through what is kept.
    ctx.save_for_backward(*inputs[:3], output[1], *inputs[3:5])
    ctx.set_materialize_grads(False)


def _backward(kernel: Any, ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    with_x = ctx.needs_input_grad[0]
    grad_x, of_input, of_state, of_bias = kernel(grad_y.contiguous(), *ctx.saved_tensors[:4], with_x)
    other = of_bias.clone()  # the caller may write to either gradient
    return grad_x if with_x else None, of_input, of_state, of_bias, other, None


OPERATOR = Operator(
    "lstm",
    Schema(
        "(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor bias_ih, Tensor bias_hh, bool keep)"
        " -> (Tensor y, Tensor kept)",
        _fake,
    ),
    _setup_context,
    _backward,
    lstm_backward=Schema(
        "(Tensor grad_y, Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor kept, bool with_x)"
        " -> (Tensor grad_x, Tensor grad_weight_ih, Tensor grad_weight_hh, Tensor grad_bias)",
        _fake_backward,
    ),
    results=1,
    layer=True,
)


def lstm(
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """y_l = h_l = σ(o) tanh(c_l), c_l = σ(f) c_{l−1} + σ(i) tanh(g), with (i, f, g, o) = W_ih x_l + b_ih + W_hh h_{l−1}
    + b_hh and h_0 = c_0 = 0: what :class:`torch.nn.LSTM` of one layer computes, whose weights these are.

    The network for sequences (Appendix A). On the CPU it is in C++: 64 samples at a time fill the SIMD lanes, and a
    step is a dense layer of the ensemble engine. For the backward pass it keeps 5 elements per sample, step and unit,
    for whole tiles of 64 samples; without gradients, for one step. ``"auto"`` leaves to PyTorch what PyTorch is faster
    at: few samples and many units.

    Args:
        x: ``[B, L, d]``, float32 for the kernel.
        weight_ih: ``[4 h, d]``.
        weight_hh: ``[4 h, h]``.
        bias_ih, bias_hh: ``[4 h]``.
        backend: ``"auto"``, ``"reference"`` or ``"cpu"``.

    Returns:
        y ``[B, L, h]``.

    Raises:
        TypeError, ValueError: an argument has another type or shape than above; names it.
        RuntimeError: the named backend cannot serve the call.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et al., 2000; the
    order of the gates is PyTorch's.
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check(*inputs)
    if choose_for_sequences(backend, *inputs) == "reference":
        return reference.lstm(*inputs)
    (y,) = OPERATOR("cpu", *(tensor.contiguous() for tensor in inputs), _keep(inputs))
    result: Tensor = y
    return result


def _keep(inputs: tuple[Tensor, ...]) -> bool:
    """Whether gradients may be asked for. Tensors inside a transform do not say so."""
    if not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return any(tensor.requires_grad for tensor in inputs)


def _check(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> None:
    check_floating("x", x)
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"x must have shape [B, L, d] with L of at least 1, got {tuple(x.shape)}")
    check_floating("weight_hh", weight_hh)
    if weight_hh.dim() != 2 or weight_hh.shape[0] != 4 * weight_hh.shape[1]:
        raise ValueError(f"weight_hh must have shape [4 h, h], got {tuple(weight_hh.shape)}")
    gates = weight_hh.shape[0]
    shapes = {"weight_ih": (gates, x.shape[2]), "bias_ih": (gates,), "bias_hh": (gates,)}
    for (name, shape), tensor in zip(shapes.items(), (weight_ih, bias_ih, bias_hh), strict=True):
        check_floating(name, tensor)
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
