"""All that changes while an ensemble is trained, in five flat tensors, and what an engine is called with."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from ..metrics.active import THRESHOLD
from ..models import CVAE, VAE
from ..training import History, TrainingConfig, cycle_of, record_every, schedule_table
from .data import Samples
from .memory import check_memory, largest
from .program import RECORDED, Program, words
from .spec import ModelSpec, outline

__all__ = ["EngineState"]

SCHEDULED = 5  # numbers per step in the table of a cycle
ALIGNED = 16  # numbers: each model begins at a line of the cache


class EngineState:
    """Models side by side.

    Attributes:
        data: each data set as the engines read it.
        progress: int64 ``[M, 2]``, for each model the steps done, and the step from 1 whose loss was not finite, or 0.
        words: int64 ``[M, …]``, what the engines are called with.
    """

    def __init__(self, specs: Sequence[ModelSpec], data: list[Samples]) -> None:
        device = data[0].x.device
        self.specs = list(specs)
        self._programs = [Program.of(outline(spec, data[spec.data].x.shape[1])) for spec in specs]
        cycles = list(dict.fromkeys(cycle_of(spec.training) for spec in specs))
        self._parameters_from = _starts([program.parameter_count + 1 for program in self._programs])
        self._records_from = _starts([records(spec) * (RECORDED + spec.latent_dim) for spec in specs])
        copied = sum(samples.copied for samples in data)
        # Weights and two moments of Adam; in the end the weights once more, in the models that are handed back.
        scheduled = SCHEDULED * sum(cycle.steps for cycle in cycles)
        needed = 4 * (4 * self._parameters_from[-1] + self._records_from[-1] + copied + scheduled)
        named = largest([program.parameter_count for program in self._programs])
        check_memory(needed, f"{len(specs)} models ({named}), their curves, schedules and data", device)
        self._schedules = {cycle: _schedule(cycle).to(device) for cycle in cycles}
        self.data = [samples.joined() for samples in data]
        self.parameters = torch.zeros(self._parameters_from[-1], dtype=torch.float32, device=device)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.parameters), torch.zeros_like(self.parameters)
        self.records = torch.zeros(self._records_from[-1], dtype=torch.float32, device=device)
        self.progress = torch.zeros(len(specs), 2, dtype=torch.int64, device=device)
        for index, program in enumerate(self._programs):
            model = self._build(index)
            flat = model.elbo.log_gamma.new_zeros(program.parameter_count + 1)
            for name, parameter in model.named_parameters():
                flat[program.places[name] :][: parameter.numel()] = parameter.detach().flatten()
            flat[program.numbers["log_gamma"]] = model.elbo.log_gamma.detach()
            self.parameters[self._parameters_from[index] :][: len(flat)] = flat
        self.words = torch.tensor([self._words(index) for index in range(len(specs))], device=device)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {
            "parameters": self.parameters,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "records": self.records,
            "progress": self.progress,
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Raises KeyError or RuntimeError if the tensors are not those of such an ensemble."""
        for name, tensor in self.tensors().items():
            if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
                raise RuntimeError(f"{name} is {tensors[name].dtype} {tuple(tensors[name].shape)}")
        done, ended = tensors["progress"].cpu().unbind(1)  # the engines follow it into memory
        steps = torch.tensor([spec.training.steps for spec in self.specs], device="cpu")
        wrong = (done < 0) | (done > steps) | ((ended != 0) & ((ended != done + 1) | (ended > steps)))
        if wrong.any():
            model = int(wrong.nonzero()[0])
            raise RuntimeError(f"progress of model {model} is {tensors['progress'][model].tolist()}")
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def _build(self, index: int) -> VAE | CVAE:
        return self.specs[index].build(self._programs[index].numbers["features"])

    def _words(self, index: int) -> list[int]:
        spec, program, data = self.specs[index], self._programs[index], self.data[self.specs[index].data]
        first = self._parameters_from[index]
        numbers = {
            "data": data.data_ptr(),
            "parameters": self.parameters[first:].data_ptr(),
            "exp_avg": self.exp_avg[first:].data_ptr(),
            "exp_avg_sq": self.exp_avg_sq[first:].data_ptr(),
            "schedule": self._schedules[cycle_of(spec.training)].data_ptr(),
            "records": self.records[self._records_from[index] :].data_ptr(),
            "state": self.progress[index].data_ptr(),
            "samples": len(data),
            "seed": spec.training.seed,
            "batch": min(spec.training.batch_size, len(data)),
            "steps": spec.training.steps,
            "record_every": record_every(spec.training),
        }
        return words(program.numbers | numbers, program.layers)

    def model(self, index: int) -> VAE | CVAE:
        """The model with its weights as they are now, in evaluation mode."""
        program, device = self._programs[index], self.parameters.device
        model = self._build(index).to(device)
        flat = self.parameters[self._parameters_from[index] :]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(flat[program.places[name] :][: parameter.numel()].view_as(parameter))
            model.elbo.log_gamma.copy_(flat[program.numbers["log_gamma"]])
        return model.eval()

    def diverged_at(self, index: int) -> int | None:
        """The step, from 1, whose loss was not finite, or the last one if its gradient was not; None if all were."""
        ended = int(self.progress[index, 1])
        first = self._parameters_from[index]
        finite = self.parameters[first : first + self._programs[index].parameter_count].isfinite().all()
        return ended or (None if finite else self.specs[index].training.steps)

    def history(self, index: int, seconds: float) -> History:
        """The curves of one model."""
        spec, done = self.specs[index], int(self.progress[index, 0])
        every, width = record_every(spec.training), RECORDED + spec.latent_dim
        steps = list(range(every, done + 1, every))
        if done == spec.training.steps and done % every:
            steps.append(done)
        table = self.records[self._records_from[index] :][: len(steps) * width].reshape(-1, width).double().cpu()
        return History(
            step=steps,
            neg_elbo=(table[:, 0] + table[:, 1]).tolist(),
            gamma=table[:, 3].exp().tolist(),
            active_dimensions=(table[:, RECORDED:] < THRESHOLD).sum(1).tolist(),
            seconds=seconds,
        )


def records(spec: ModelSpec) -> int:
    """Points on a curve of this model."""
    return -(-spec.training.steps // record_every(spec.training))


@lru_cache(maxsize=8)
def _schedule(cycle: TrainingConfig) -> Tensor:
    """Kept: it takes a third of a second for 20,000 steps, and is the same for most ensembles of one process."""
    return schedule_table(cycle).float()


def _starts(sizes: list[int]) -> list[int]:
    """Where each of these consecutive parts begins, aligned; and where the last one ends."""
    return [0, *accumulate(-(-size // ALIGNED) * ALIGNED for size in sizes)]
