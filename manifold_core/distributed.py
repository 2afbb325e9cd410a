"""Processes that train one model together: what they agree on, and means over all of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .errors import InputError

__all__ = [
    "Joined",
    "check_agreed",
    "everywhere",
    "from_first",
    "gathered",
    "group_of_torchrun",
    "is_first",
    "joined_mean",
    "process_of_torchrun",
    "together",
]

T = TypeVar("T")
# None is this process alone, as it is everywhere in builds of torch without processes.
if TYPE_CHECKING or dist.is_available():
    Group: TypeAlias = dist.ProcessGroup | None
else:
    Group = None


class Joined:
    """A module whose numbers depend on the whole batch. While processes train it together, each on its own rows,
    ``process_group`` names them.

    It is kept in the module, not in a variable of the thread: autograd runs a module whose activations were not kept
    again, in threads of its own.
    """

    process_group: Group = None


@contextmanager
def together(model: nn.Module, group: Group) -> Iterator[None]:
    """Within the block, the modules of the model know the group."""
    parts = [module for module in model.modules() if isinstance(module, Joined)]
    for part in parts:
        part.process_group = group
    try:
        yield
    finally:
        for part in parts:
            part.process_group = None


class _Gather(torch.autograd.Function):
    """The backward pass sums the gradients that the losses of all processes have for this one's part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: "dist.ProcessGroup") -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(part) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        group: dist.ProcessGroup = ctx.group  # type: ignore[attr-defined]
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=group)
        return gradient[group.rank()], None


def gathered(part: Tensor, group: "dist.ProcessGroup") -> Tensor:
    """The tensors of all W processes, ``[W, ...]``, the same in each; differentiable.

    Its gradient is that of the sum of all processes' losses: of their mean once processes average their gradients, as
    ``DistributedDataParallel`` does.
    """
    found: Tensor = _Gather.apply(part, group)
    return found


def joined_mean(part: Tensor, group: Group) -> Tensor:
    """The mean over all processes, differentiable like :func:`gathered`; alone, the tensor itself."""
    return part if group is None else gathered(part, group).mean(dim=0)


def is_first(group: Group) -> bool:
    """Whether this process writes files and shows progress: one per group does."""
    return group is None or group.rank() == 0


def from_first(call: Callable[[], T], group: Group) -> T:
    """The result of ``call``, which only the first process makes; an InputError is raised in all."""
    if group is None:
        return call()
    found: list[Any] = [None, None]
    if is_first(group):
        try:
            found[0] = call()
        except InputError as error:
            found[1] = str(error)
    dist.broadcast_object_list(found, group=group, group_src=0)
    if found[1] is not None:
        raise InputError(found[1])
    return found[0]


def everywhere(call: Callable[[], T], group: Group) -> T:
    """The result of ``call`` here. The first process makes the call before the others, for whom it may leave files. An
    InputError of one is raised in all."""
    if group is None:
        return call()
    found: list[T] = []
    for firsts_turn in (True, False):
        message = None
        if is_first(group) == firsts_turn:
            try:
                found.append(call())
            except InputError as error:
                message = str(error)
        for failed in _of_all(message, group):
            if failed is not None:
                raise InputError(failed)
    return found[0]


def check_agreed(what: dict[str, Any], group: Group) -> None:
    """Raise InputError in all processes unless each has the same of everything, and if the group is none."""
    if group is None:
        return
    if not isinstance(group, dist.ProcessGroup):
        raise InputError(
            f"process_group must be a group of torch.distributed, such as torch.distributed.group.WORLD, or None, got "
            f"{group!r}"
        )
    first, *others = _of_all(what, group)
    for rank, other in enumerate(others, 1):
        for name in first | other:
            ours, theirs = first.get(name), other.get(name)
            if ours != theirs:
                raise InputError(
                    f"{name} must be the same in all processes, got {ours!r} in the first and {theirs!r} in process "
                    f"{rank}"
                )


def _of_all(value: T, group: "dist.ProcessGroup") -> list[T]:
    found: list[Any] = [None] * group.size()
    dist.all_gather_object(found, value, group=group)
    return found


def process_of_torchrun() -> int | None:
    """The number of this process, from 0, among those that ``torchrun`` started; None if it is alone."""
    return int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ else None


@contextmanager
def group_of_torchrun(device: str) -> Iterator[Group]:
    """The processes that ``torchrun`` started; None if it did not, or started only one. With ``device="cuda"`` each
    takes a GPU of its machine.

    Raises:
        InputError: one named GPU for all, or fewer GPUs than processes.
    """
    if process_of_torchrun() is None:
        yield None
        return
    if torch.device(device).index is not None:
        raise InputError(f"device must be cpu or cuda with torchrun, which gives each process a GPU, got {device!r}")
    if device == "cpu":
        dist.init_process_group("gloo")
    else:
        processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > gpus:
            raise InputError(
                f"--nproc-per-node must be at most the number of GPUs of a machine, {gpus}, got {processes}"
            )
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        dist.init_process_group("nccl", device_id=own)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
