"""The weights of one step: Adam captured into a CUDA graph, with numbers that the device finds by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import TrainingConfig
from .graph import Replay, captured
from .schedule import schedule_table
from .state import TrainingState
from .step import GraphStep

__all__ = ["GraphUpdate", "TableAdam"]

ALIGNED = 4  # numbers: PyTorch's kernels for many tensors read this many at once if all begin at a multiple of it


class TableAdam:
    """One step of ``torch.optim.Adam`` per call, with the learning rates and the β₁ that a one-cycle schedule gives.

    PyTorch's own is captured with the β₁ of that moment, since its kernel takes it from the host. This one looks up a
    table on the device, and reads nothing that the host would have to write.

    It is m += (1 − β₁)(g − m), v = β₂ v + (1 − β₂) g², p −= m / (s √v / √(1 − β₂ᵗ) + s ε) with s = (1 − β₁ᵗ) / lr. The
    moments of all parameters stand one after the other in one tensor each, which is one small kernel each time; those
    of the optimizer become views of them.

    Args:
        optimizer: has made a step: parameters without moments have no gradient, and are left alone. All others are of
            one dtype, float32 or float64, and on one device.
        config: of the schedule.
        done: steps before the first call.
    """

    def __init__(self, optimizer: torch.optim.Adam, config: TrainingConfig, done: int) -> None:
        # Those of the networks, and of a learned log γ.
        groups = [[p for p in group["params"] if p in optimizer.state] for group in optimizer.param_groups]
        self._parameters: list[Tensor] = [parameter for group in groups for parameter in group]
        states: list[dict[str, Any]] = [optimizer.state[parameter] for parameter in self._parameters]
        lengths = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in self._parameters]
        self._gradient, self._m, self._v = self._parameters[0].new_zeros(3, sum(lengths))
        self._root = torch.empty_like(self._v)

        def views(whole: Tensor) -> list[Tensor]:
            """A moment has the strides of its parameter, and of a gradient, if that is dense."""
            parts = zip(whole.split(lengths), states, strict=True)
            return [part.as_strided(state["exp_avg"].shape, state["exp_avg"].stride()) for part, state in parts]

        self._gradients, self._ms, self._roots = views(self._gradient), views(self._m), views(self._root)
        for state, m, v in zip(states, self._ms, views(self._v), strict=True):
            state["exp_avg"] = m.copy_(state["exp_avg"])
            state["exp_avg_sq"] = v.copy_(state["exp_avg_sq"])
        of_networks = sum(lengths[: len(groups[0])])
        self._root_of_groups = self._root.split([of_networks, len(self._root) - of_networks])
        self._beta2 = config.beta2
        self._table = _table(config, optimizer.defaults["eps"]).to(self._root)
        self._done = torch.full((1,), done, device=self._root.device)

    @torch.no_grad()
    def __call__(self) -> None:
        one_minus_beta1, *of_groups = self._table.index_select(0, self._done).squeeze(0).unbind()
        self._done += 1
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_copy_(self._gradients, gradients)
        self._m.lerp_(self._gradient, one_minus_beta1)
        self._v.mul_(self._beta2).addcmul_(self._gradient, self._gradient, value=1 - self._beta2)
        torch.sqrt(self._v, out=self._root)
        for root, factor, summand in zip(self._root_of_groups, of_groups[::2], of_groups[1::2], strict=True):
            torch.addcmul(summand, root, factor, out=root)
        torch._foreach_addcdiv_(self._parameters, self._ms, self._roots, value=-1)


def _table(config: TrainingConfig, epsilon: float) -> Tensor:
    """1 − β₁ of each step, then for the networks and for log γ what √v is multiplied by, and what is added to it."""
    of_networks, of_log_gamma, one_minus_beta1, _, correction = schedule_table(config).unbind(1)
    sizes = [number for size in (of_networks, of_log_gamma) for number in (correction / size, epsilon / size)]
    return torch.stack((one_minus_beta1, *sizes), dim=1)


class GraphUpdate:
    """What follows a :class:`GraphStep`: Adam and its schedule, replayed as well.

    PyTorch's Adam takes the first step, which makes its moments; :class:`TableAdam`, run by Python, takes the next,
    which loads its kernels; so the capture needs no step to warm up, which could not be undone. If the gradients are
    not replayed, or float16 may leave a step out, all steps are PyTorch's.

    Args:
        run: whose optimizer it is; its schedule is brought up to date when the run is saved.
        step: leaves the gradients behind.
        capture: returns what replays a call of a function, and never calls it.
    """

    def __init__(self, run: TrainingState, step: GraphStep, capture: Callable[[Replay], Replay]) -> None:
        self._run = run
        self._step = step
        self._capture = capture
        self._adam: TableAdam | None = None
        self._replay: Replay | None = None
        self._by_pytorch = run.scaler.is_enabled() or not _alike(list(run.model.parameters()))

    def __call__(self) -> None:
        if self._by_pytorch or not self._step.replayed or not self._run.optimizer.state:
            self._run.update()
        elif self._adam is None:
            self._adam = TableAdam(self._run.optimizer, self._run.config, self._run.step)
            self._adam()
        else:
            if self._replay is None:
                self._replay = captured(self._adam, self._capture, self._step.device, "Adam's step") or self._adam
            self._replay()


def _alike(parameters: Sequence[Tensor]) -> bool:
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    return len(kinds) == 1 and parameters[0].dtype in (torch.float32, torch.float64)
