"""The gradients of one step: plain, in half precision, shared out to processes, or replayed from a CUDA graph."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..distributed import Group, Joined
from ..errors import InputError
from ..models import CVAE, VAE
from ..models.elbo import ELBOTerms
from ..models.inputs import dtype_explained
from .config import Precision

__all__ = [
    "DTYPES",
    "GraphStep",
    "PlainStep",
    "Step",
    "autocast",
    "captured",
    "check_group",
    "check_precision",
    "cuda_graph",
    "kept",
    "undone",
]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UPS = 3  # as PyTorch's recipe has it: libraries choose their kernels in the first calls
# Sent once at the start, buffers stay the same everywhere. The newer name came with torch 2.13; the older one leaves
# them out at the start, too.
RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
LEAVE_BUFFERS = {"forward_sync_buffers" if RENAMED else "broadcast_buffers": False}


class Step(Protocol):
    """Leaves the gradients of a mini-batch in the parameters, of float16 scaled, and returns the terms of its ELBO."""

    def __call__(self, index: Tensor, seed: int) -> ELBOTerms: ...


class PlainStep:
    """Forward and backward as PyTorch runs them. With a group, of this process's share of the rows; the gradients are
    those of all rows.

    Args:
        model: on the device of the inputs.
        inputs: all samples, and of a CVAE all conditions.
        size: rows of a mini-batch.
        precision: as of :class:`manifold_core.TrainingConfig`.
        scaler: of the loss, for float16.
        group: processes that share the rows.
    """

    def __init__(
        self,
        model: VAE | CVAE,
        inputs: tuple[Tensor, ...],
        size: int,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        group: Group,
    ) -> None:
        self.model = model
        self.device = inputs[0].device
        self._inputs = inputs
        self._precision = precision
        self._scaler = scaler
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._network: Callable[..., ELBOTerms] = model
        self._rows = slice(None)
        self._first_row: dict[str, int] = {}
        self._unused_looked_for = group is None
        if group is not None:
            for buffer in model.buffers():
                dist.broadcast(buffer, group=group, group_src=0)
            leave: dict[str, Any] = LEAVE_BUFFERS
            self._network = DistributedDataParallel(model, process_group=group, **leave)
            share = size // group.size()
            self._rows = slice(group.rank() * share, (group.rank() + 1) * share)
            self._first_row = {"first_row": group.rank() * share}

    def __call__(self, index: Tensor, seed: int | Tensor) -> ELBOTerms:
        for parameter in self._parameters:
            parameter.grad = None
        batch = [part.index_select(0, index[self._rows]) for part in self._inputs]
        with autocast(self._precision, self.device), dtype_explained(self.model, self._inputs):
            terms = self._network(*batch, seed=seed, **self._first_row)
        self._scaler.scale(terms.loss).backward()
        if not self._unused_looked_for:
            self._refuse_unused()
        return terms

    def _refuse_unused(self) -> None:
        """DistributedDataParallel waits for all gradients before the next step."""
        self._unused_looked_for = True
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                raise InputError(
                    f"model must use all its parameters in every step where processes share it, got {name} without a "
                    "gradient"
                )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """In which the networks of a step run."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


Replay = Callable[[], None]


class GraphStep:
    """The same step, captured once and replayed: the GPU runs its kernels without waiting for Python.

    The index of the samples, the seed of the noise, the gradients and the terms keep their places in memory. What
    Python does in the forward pass happens while it is captured and never again.

    Args:
        step: what is captured.
        capture: calls a function as often as it likes, and returns what stands for one more call, without running it.

    Attributes:
        replayed: the step has been captured, and from now on the gradients keep their places.
    """

    def __init__(self, step: PlainStep, capture: Callable[[Replay], Replay]) -> None:
        self.device = step.device
        self.replayed = False
        self._step = step
        self._capture = capture
        self._replay: Replay | None = None
        self._terms: ELBOTerms | None = None
        self._index = torch.empty(0)
        self._seed = torch.zeros((), dtype=torch.int64, device=step.device)

    def __call__(self, index: Tensor, seed: int) -> ELBOTerms:
        if self._replay is None:
            self._index = index.clone()
        self._index.copy_(index)
        self._seed.fill_(seed)
        if self._replay is None:
            with undone(self._step.model, self.device):
                replay = captured(self._take, self._capture, self.device, "the training step")
            self.replayed = replay is not None
            self._replay = replay or self._take
        self._replay()
        assert self._terms is not None
        return self._terms

    def _take(self) -> None:
        self._terms = None  # with it goes the last call's autograd graph, whose nodes are bound to their stream
        self._terms = self._step(self._index, self._seed)


def captured(function: Replay, capture: Callable[[Replay], Replay], device: torch.device, name: str) -> Replay | None:
    """What ``capture`` makes of the function; where it fails, None and a warning that calls it by that name."""
    # Streams and graphs are made on the current device, whatever that of the tensors.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        try:
            return capture(function)
        except RuntimeError as error:
            cause = error.__context__ or error  # what happened in a capture, not that the capture could not end
            if not isinstance(cause, Exception):  # Ctrl+C
                raise cause from None
            reason = str(cause).partition("\n")[0]
            warnings.warn(
                f"{name} could not be captured into a CUDA graph and runs without: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None


@contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Calls of the model leave no trace: neither in running statistics, nor in an analytic γ, nor in torch's random
    numbers."""
    put_back = kept(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            put_back()


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Waits for the device, once."""
    found = [tensor.isfinite().all() for tensor in tensors if not is_lazy(tensor)]
    return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())


def kept(model: nn.Module, parameters: Sequence[Tensor] = ()) -> Callable[[], None]:
    """Puts the buffers of the model, and these parameters, back as they are now, when it is called: a network may write
    into a buffer, or put another tensor in its place."""
    buffers = [(module, name, part) for module in model.modules() for name, part in module._buffers.items()]
    tensors = {id(part): part for _, _, part in buffers if part is not None} | {id(part): part for part in parameters}
    # Lazy ones have no numbers yet. Expanded ones nobody can write to.
    written = [part for part in tensors.values() if not is_lazy(part) and not _is_expanded(part)]
    copies = [part.detach().clone() for part in written]

    def put_back() -> None:
        for module, name, part in buffers:
            module._buffers[name] = part
        with torch.no_grad():
            for part, before in zip(written, copies, strict=True):
                part.copy_(before)

    return put_back


def _is_expanded(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def cuda_graph(function: Replay, warm_ups: int = WARM_UPS) -> Replay:
    """A CUDA graph of the function, by PyTorch's recipe: warmed up and captured on a stream that is not the default."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    # Else on the stream where it will run: its workspace of cuBLAS is that of the stream, of which PyTorch has but 32.
    if stream == torch.cuda.default_stream():
        stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, stream=stream):
        function()
    replay: Replay = graph.replay
    return replay


def check_weights(model: nn.Module) -> None:
    """Raise InputError where there is nothing to train, or nothing that Adam's steps could move."""
    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise InputError("model must have a parameter that requires a gradient, got none")
    for name, dtype in trained.items():
        if dtype in (torch.bfloat16, torch.float16):
            raise InputError(
                f"model must have trainable weights of float32 or float64, got {name} of {dtype}, in which an "
                "optimizer's steps are lost: TrainingConfig(precision='bfloat16') keeps float32 and computes in that"
            )


def check_precision(precision: Precision, model: nn.Module, device: torch.device) -> None:
    """Raise InputError where model or device cannot be trained in that precision."""
    if precision == "float32":
        return
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise InputError(f"precision must be 'float32' for a model whose weights are not float32, got {precision!r}")
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        name = torch.cuda.get_device_name(device)
        raise InputError(
            f"precision must be 'float32' or 'float16' on {name}, which lacks the third, got {precision!r}"
        )


def check_group(model: VAE | CVAE, size: int, group: Group) -> None:
    """Raise InputError where the loss is no number, or the processes of a group could not train the model on the joined
    batch."""
    if model.elbo.reduction == "none":
        raise InputError("elbo must have reduction='mean' or 'sum' to be trained, got 'none'")
    if group is None:
        return
    if size % group.size():
        raise InputError(
            f"batch_size must be a multiple of the number of processes, {group.size()}, which share a mini-batch, "
            f"got a mini-batch of {size}"
        )
    if model.elbo.reduction != "mean":
        raise InputError(f"elbo must have reduction='mean' where processes share it, got {model.elbo.reduction!r}")
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and not isinstance(module, (Joined, nn.SyncBatchNorm)):
            raise InputError(
                "model must normalise over the joined batch where processes share it, with "
                "manifold_core.networks.BatchNorm2d, or nn.SyncBatchNorm on GPUs, "
                f"got a {type(module).__name__} as {name}"
            )
