"""Remark 1: a CVAE with a learned prior, made into one with the prior N(0, I), has the same losses and samples.

Trained like those of Table 3 in batches half as large, with and without the attention of Section 4.4, then converted by
:func:`manifold_core.with_standard_prior`.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from ..data import conditional_manifold
from ..ensemble import ModelSpec
from ..models import CVAE, VAE
from ..models.standard_prior import with_standard_prior
from . import recipe
from .table3 import AMBIENT_DIM, LATENT_DIM, MANIFOLD_DIM
from .tables import ATTENTION, Cell, Plan, Table

__all__ = ["TABLE"]

CONDITION_DIMS = (1, 5, 9)
SAMPLES = 10_000


@torch.no_grad()
def differences(model: VAE | CVAE, x: Tensor, c: Tensor) -> dict[str, float]:
    """Between the model and its conversion, on the same noise: the largest over samples, relative to the largest value.
    In float32, as trained, and in float64, where what is left is no more than rounding."""
    assert isinstance(model, CVAE)
    found = {}
    for dtype in (torch.float32, torch.float64):
        own = copy.deepcopy(model).to(dtype)
        converted = with_standard_prior(own)
        inputs = x[:SAMPLES].to(dtype), c[:SAMPLES].to(dtype)
        ours, theirs = own(*inputs, seed=0), converted(*inputs, seed=0)
        drawn = [one.sample(inputs[1], generator=torch.Generator(x.device).manual_seed(0)) for one in (own, converted)]
        pairs = {"nll": (ours.nll, theirs.nll), "KL": (ours.kl, theirs.kl), "samples": (drawn[0], drawn[1])}
        for name, (a, b) in pairs.items():
            words = f"largest relative difference of {name} in {str(dtype).removeprefix('torch.')}"
            found[words] = float((a - b).abs().max() / a.abs().max())
    return found


def _cells(plan: Plan) -> list[Cell]:
    spec = ModelSpec(LATENT_DIM, recipe.hidden("manifold", plan))
    return [
        Cell(
            {"t": t},
            replace(spec, condition_dim=t, attention=attention),
            recipe.under_condition(
                conditional_manifold, plan, ambient_dim=AMBIENT_DIM, manifold_dim=MANIFOLD_DIM, condition_dim=t
            ),
            (MANIFOLD_DIM - t,),
            variant,
            measure=differences,
        )
        for variant, attention in ATTENTION.items()
        for t in CONDITION_DIMS
    ]


TABLE = Table("remark1", "Remark 1: a learned prior moved into encoder and decoder", _cells, plan=recipe.half_batches)
