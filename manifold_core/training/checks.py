"""Checks before training, for what cannot be trained."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..distributed import Group, Joined
from ..errors import InputError
from ..models import CVAE, VAE
from .config import Precision

__all__ = ["check_gradients", "check_group", "check_precision", "check_tensors", "check_weights"]


def check_gradients() -> None:
    """Raise InputError in ``torch.inference_mode()``, whose tensors can never be trained with."""
    if torch.is_inference_mode_enabled():
        raise InputError("training must be outside of torch.inference_mode(), which has no gradients")


def check_weights(model: nn.Module) -> None:
    """Raise InputError if there is nothing to train, or nothing that Adam's steps could move."""
    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise InputError("model must have a parameter that requires a gradient, got none")
    if any(not is_lazy(part) and part.is_inference() for part in model.parameters()):
        raise InputError("model must have been made outside of torch.inference_mode(), or it can never be trained")
    for name, dtype in trained.items():
        if dtype in (torch.bfloat16, torch.float16):
            raise InputError(
                f"model must have trainable weights of float32 or float64, got {name} of {dtype}, in which an "
                "optimizer's steps are lost: TrainingConfig(precision='bfloat16') computes in it with float32 weights"
            )


def check_precision(precision: Precision, model: nn.Module, device: torch.device) -> None:
    """Raise InputError if the model cannot be trained in that precision on the device, or the caller has an autocast
    on: until that ends, PyTorch keeps the weights that it has cast, and the networks would stay those of the first
    step."""
    if torch.is_autocast_enabled(device.type):
        raise InputError(
            "training must be outside of torch.autocast, which would keep the first step's weights; "
            "TrainingConfig(precision='bfloat16') computes in half precision"
        )
    if precision == "float32":
        return
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise InputError(f"precision must be 'float32' for a model whose weights are not float32, got {precision!r}")
    if precision == "float16" and device.type == "cpu" and any(isinstance(part, nn.LSTM) for part in model.modules()):
        raise InputError("precision must be 'float32' or 'bfloat16' for an LSTM on a CPU, got 'float16'")
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        name = torch.cuda.get_device_name(device)
        raise InputError(
            f"precision must be 'float32' or 'float16' on {name}, which has no bfloat16, got {precision!r}"
        )


def check_group(model: VAE | CVAE, size: int, group: Group) -> None:
    """Raise InputError if the loss is not one number, or the processes of a group could not train the model on the
    joined batch."""
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
        raise InputError(f"elbo must have reduction='mean' if processes share it, got {model.elbo.reduction!r}")
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and not isinstance(module, (Joined, nn.SyncBatchNorm)):
            raise InputError(
                "model must normalise over the joined batch if processes share it, with "
                "manifold_core.networks.BatchNorm2d, or nn.SyncBatchNorm on GPUs, "
                f"got a {type(module).__name__} as {name}"
            )


def check_tensors(model: VAE | CVAE) -> None:
    """Raise InputError if ``get_extra_state`` of a module gives something else, which no checkpoint can hold, or a lazy
    module has no shapes yet, so that none can be loaded into it."""
    for name, part in model.state_dict().items():
        if is_lazy(part):
            raise InputError(
                f"model must have all its weights if a folder is given, got {name} of a lazy module: call the model "
                "once before"
            )
        if not isinstance(part, Tensor):
            raise InputError(
                f"model must have a state of tensors alone if a folder is given, got {type(part).__name__} as {name}"
            )
