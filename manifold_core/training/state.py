"""What a stopped run needs to resume and reach the same numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models import CVAE, VAE
from ..models.inputs import unwrapped
from ..storage import checkpoint
from ..storage.owner import check_identity
from .config import History, TrainingConfig
from .probe import Probe
from .schedule import make_optimizer

__all__ = ["TrainingState", "put_beside"]

ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


class TrainingState:
    """Everything that a stopped run needs to resume and reach the same numbers."""

    def __init__(
        self, model: VAE | CVAE, inputs: tuple[Tensor, ...], config: TrainingConfig, identity: dict[str, Any]
    ) -> None:
        self.model = unwrapped(model)  # torch.compile's wrapper has other names for the same weights
        self.config = config
        self.probe = Probe(model, inputs, config)
        self.identity = identity | {"training": asdict(config)}
        log_gamma = model.elbo.log_gamma
        self.device = log_gamma.device
        networks = [parameter for parameter in model.parameters() if parameter is not log_gamma]
        self.optimizer, self.schedule = make_optimizer(networks, log_gamma, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.history = History()
        self.step = 0
        self._beside = frozenset(_beside_the_state(self.model))  # others could not be loaded into a model as it is made
        self._constants: dict[str, str] = {}

    def remember_constants(self) -> None:
        """Before training, if checkpoints are kept: buffers outside the model's state are saved from then on if
        something has written to them. The others are made with the model, and may be large."""
        self._constants = {name: checkpoint.fingerprint(part) for name, part in _beside_the_state(self.model).items()}

    def update(self) -> None:
        """Adam's step and that of its schedule."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()

    def catch_up(self) -> None:
        """Advance what a captured update leaves behind: schedule and number of steps."""
        if self.schedule.last_epoch == self.step:
            return
        before = {"last_epoch": self.step - 1, "_step_count": self.step}
        self.schedule.load_state_dict(self.schedule.state_dict() | before)
        self.schedule.step()  # a function of the number of steps
        for moments in self.optimizer.state.values():
            moments["step"].fill_(self.step)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        for name, part in _beside_the_state(self.model).items():  # a network may have put others in their place
            if name in self._beside and checkpoint.fingerprint(part) != self._constants.get(name):
                found[f"buffer.{name}"] = part
        found["random"] = torch.get_rng_state()  # a user's network may have dropout
        if self.device.type == "cuda":
            found["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.step,
            "history": self.history.as_dict(),
            "param_groups": self.optimizer.state_dict()["param_groups"],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "neg_elbo": self.probe.neg_elbo(),
        }

    def save(self, folder: Path) -> None:
        self.catch_up()
        checkpoint.save(folder, self.step, self.tensors(), self.state())

    def restore(self, found: checkpoint.Checkpoint, folder: Path) -> None:
        check_identity(found.state.get("identity"), self.identity, folder)
        tensors = dict(found.tensors)
        try:
            torch.set_rng_state(tensors.pop("random"))
            random = tensors.pop("random_cuda", None)  # missing if a CPU, or an earlier version, wrote it
            if random is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(random.cpu(), self.device)
            moments: dict[int, dict[str, Tensor]] = {}
            parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
            for index, parameter in enumerate(parameters):
                start = f"optimizer.{index}."
                for name in [name for name in tensors if name.startswith(start)]:
                    moment = tensors.pop(name)
                    if name != f"{start}step":  # Adam's fused kernel needs the strides of the parameter
                        moment = torch.empty_like(parameter).copy_(moment)
                    moments.setdefault(index, {})[name.removeprefix(start)] = moment
                if index in moments and moments[index].keys() != ADAM_STATE:
                    raise ValueError(f"optimizer state of parameter {index} has {sorted(moments[index])}")
            for name in put_beside(self.model, tensors):
                del tensors[f"buffer.{name}"]
                self._constants.pop(name, None)  # it was written to, whatever the model came with
            self.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
            self.optimizer.load_state_dict({"state": moments, "param_groups": found.state["param_groups"]})
            self.schedule.load_state_dict(found.state["schedule"])
            self.scaler.load_state_dict(found.state["scaler"])
            self.history = History(**found.state["history"])
            self.step = int(found.state["step"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"checkpoint is of another model or damaged: {error}") from error

    def check_network(self, found: checkpoint.Checkpoint, folder: Path) -> None:
        """Raise InputError if the weights of the checkpoint, once restored, do not do what they did."""
        kept = found.state.get("neg_elbo")
        if (here := self.probe.disagreement(kept)) is not None:
            raise InputError(
                f"model must be the one whose checkpoint is in folder {str(folder)!r}: its weights give a -ELBO of "
                f"{here:.6g} here and gave {kept:.6g} there; has its code changed?"
            )


def put_beside(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Load the buffers of a checkpoint that are outside the model's state; returns their names. Raises KeyError for one
    that the model lacks."""
    beside = _beside_the_state(model)
    names = [name.removeprefix("buffer.") for name in tensors if name.startswith("buffer.")]
    for name in names:
        beside[name].copy_(tensors[f"buffer.{name}"])
    return names


def _beside_the_state(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are not persistent: PyTorch takes them for constants, but a network may write to them."""
    state = model.state_dict(keep_vars=True)
    return {name: part for name, part in model.named_buffers() if name not in state}
