"""How far the models of an engine may be from those of the reference."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from ensemble.kinds import toy
from torch import Tensor

import manifold_core as mc
from manifold_core import ModelSpec, TrainedModel

__all__ = ["AT_A_KINK", "assert_the_way_of_the_reference", "largest"]

# How far weights and log γ, and −ELBO, of engine and reference may be apart after so many steps at a learning rate of
# 0.01. ROUNDING: of weights of about 1 and losses of about 10; repeated at each step, and divided by √v where gradients
# are small. Measured on three instruction sets: 5e-7 at most after 100 steps for the weights, 2e-6 for the losses.
# AT_A_KINK: of the few models of which a sample comes to lie on the other side of an activation's kink and turns
# Adam's step of a small gradient round: the reference in float64 is 6e-4 away from itself in float32 in such a case.
# Models of full covariance were 4e-7 apart at most, and their losses 2e-6, but for one at a kink.
ROUNDING = {1: (3e-7, 5e-6), 10: (6e-7, 1e-5), 100: (3e-6, 2e-5)}
AT_A_KINK = {1: (1e-6, 1e-5), 10: (3e-3, 1e-3), 100: (1e-2, 1e-2)}
AT_A_KINK_AT_MOST = 2  # of the 14 kinds


@cache
def _by_reference(specs: tuple[ModelSpec, ...]) -> list[TrainedModel]:
    return mc.train_ensemble(specs, toy(), backend="reference", progress=False)


def largest(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True))


def assert_the_way_of_the_reference(
    found: list[TrainedModel], specs: Sequence[ModelSpec], at_a_kink: int = AT_A_KINK_AT_MOST
) -> None:
    """Of these models, trained on the toy data for as many steps: weights and curves. So many may come to a kink."""
    apart, steps = [], specs[0].training.steps
    for a, b, spec in zip(found, _by_reference(tuple(specs)), specs, strict=True):
        assert (a.spec, a.diverged_at, b.diverged_at) == (spec, None, None)
        assert list(a.model.state_dict()) == list(b.model.state_dict())
        weights = largest(list(a.model.state_dict().values()), list(b.model.state_dict().values()))
        assert a.history.step == b.history.step == list(range(1, steps + 1))
        losses = largest([torch.tensor(a.history.neg_elbo)], [torch.tensor(b.history.neg_elbo)])
        gamma = largest([torch.tensor(a.history.gamma).log()], [torch.tensor(b.history.gamma).log()])
        assert a.history.active_dimensions == b.history.active_dimensions
        assert a.metrics.spectrum == pytest.approx(b.metrics.spectrum, abs=1e-2)
        apart.append((max(weights, gamma), max(losses, abs(a.metrics.neg_elbo - b.metrics.neg_elbo))))
    for which in (0, 1):
        numbers = sorted(pair[which] for pair in apart)
        assert numbers[-1] <= AT_A_KINK[steps][which], apart
        assert numbers[-1 - at_a_kink] <= ROUNDING[steps][which], apart
