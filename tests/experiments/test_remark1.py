"""The differences that Remark 1 says are none."""

import copy
from types import SimpleNamespace

import pytest
import torch
from manifold_core.experiments import remark1
from manifold_core.experiments.remark1 import differences
from torch import Tensor

import manifold_core as mc


@pytest.fixture
def model() -> mc.CVAE:
    torch.manual_seed(0)
    return mc.CVAE.mlp(6, 2, 3, (8,), attention=True)


def test_a_conversion_differs_by_rounding(model: mc.CVAE) -> None:
    x, c = torch.rand(50, 6), torch.randn(50, 2)
    found = differences(model, x, c)
    assert len(found) == 6
    for name, difference in found.items():
        assert 0 <= difference < (1e-5 if "float32" in name else 1e-13), name


def test_another_model_is_not_taken_for_a_conversion(model: mc.CVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly(one: mc.CVAE) -> mc.CVAE:
        converted = copy.deepcopy(one)
        with torch.no_grad():
            next(converted.decoder.parameters()).add_(1e-3)
            assert converted.prior is not None
            next(converted.prior.parameters()).add_(1e-3)
        return converted

    monkeypatch.setattr(remark1, "with_standard_prior", nearly)
    found = differences(model, torch.rand(50, 6), torch.randn(50, 2))
    assert min(found.values()) > 1e-6


def test_each_difference_is_the_largest_of_its_own(model: mc.CVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one number of many, relative to the largest."""

    def off(values: Tensor, share: float) -> Tensor:
        changed = values.clone()
        changed.view(-1)[3] += share * values.abs().max()
        return changed

    class Off:
        def __init__(self, one: mc.CVAE) -> None:
            self.one = one

        def __call__(self, x: Tensor, c: Tensor, seed: int) -> SimpleNamespace:
            terms = self.one(x, c, seed=seed)
            return SimpleNamespace(nll=off(terms.nll, 0.01), kl=off(terms.kl, 0.02))

        def sample(self, c: Tensor, generator: torch.Generator) -> Tensor:
            return off(self.one.sample(c, generator=generator), 0.03)

    monkeypatch.setattr(remark1, "with_standard_prior", Off)
    found = differences(model, torch.rand(50, 6), torch.randn(50, 2))
    for name, share in (("nll", 0.01), ("KL", 0.02), ("samples", 0.03)):
        shown = [value for words, value in found.items() if f" of {name} in " in words]
        assert shown == pytest.approx([share, share], rel=1e-3)
