"""Whether the weights of a checkpoint are those of this network: the −ELBO that they give on a few samples.

The text of a model does not tell all that it computes: it has neither the functions given to it nor any code.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import CVAE, VAE
from ..models.inputs import unwrapped
from ..modes import evaluation_mode
from .config import TrainingConfig
from .snapshot import undone
from .step import DTYPES, autocast

__all__ = ["Probe"]

SAMPLES = 256
SEED = 2**63 - 1  # of the noise: no step has it
# Relative error of a network's output on another device: TF32 has steps of 2⁻¹⁰, and errors grow from layer to layer.
ROUNDING = 0.002


class _Found(NamedTuple):
    neg_elbo: float
    allowed: float  # what rounding can make of it


class Probe:
    """Measures a model on the first samples, at most a mini-batch, and leaves no trace in it.

    Args:
        model: to be trained; not wrapped, even if processes share it.
        inputs: all samples, and for a CVAE all conditions.
        config: of the training.
    """

    def __init__(self, model: VAE | CVAE, inputs: tuple[Tensor, ...], config: TrainingConfig) -> None:
        self._model = unwrapped(model)
        self._rows = tuple(part[: min(SAMPLES, config.batch_size)] for part in inputs)
        self._precision = config.precision

    def neg_elbo(self) -> float | None:
        """For a checkpoint to keep; None for a network that only runs in training mode."""
        found = self._measured(1)
        return found[0].neg_elbo if found else None

    def disagreement(self, kept: float | None) -> float | None:
        """The −ELBO of the weights as they are now, if it cannot be the one that was kept. None if it can, or if
        nothing can be said: one is missing or was not finite, or the network is random in evaluation mode."""
        if kept is None or not math.isfinite(kept):
            return None
        found = self._measured(2)
        if found is None:
            return None
        here, allowed = found[0]
        if not math.isfinite(here):
            return here
        return None if here != found[1].neg_elbo or abs(here - kept) <= allowed else here

    def _measured(self, times: int) -> list[_Found] | None:
        device = self._rows[0].device
        with undone(self._model, device), evaluation_mode(self._model), torch.no_grad():
            try:
                with autocast(self._precision, device):
                    return [self._once() for _ in range(times)]
            except Exception:  # a user's code: it must not cost a checkpoint, and training will raise what is wrong
                return None

    def _once(self) -> _Found:
        terms = self._model(*self._rows, seed=SEED)
        nll, kl, recon = (term.double() for term in (terms.nll, terms.kl, terms.recon))
        dtypes = (self._rows[0].dtype, DTYPES.get(self._precision, torch.float32))
        rounding = max(ROUNDING, *(torch.finfo(dtype).eps for dtype in dtypes))
        # x̂ is off by that much of x, to which a small γ is sensitive, mostly across x − x̂ and not along it.
        off = rounding * self._rows[0].double().flatten(1).norm(dim=1)
        of_nll = off * (recon.sqrt() / 4 + off / 2) / terms.log_gamma.double().exp()
        return _Found(float((nll + kl).mean()), float((of_nll + rounding * (kl + 1)).mean()))
