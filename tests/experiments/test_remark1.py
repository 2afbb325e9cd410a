"""The differences that Remark 1 says are none."""

import copy

import pytest
import torch
from manifold_core.experiments import remark1
from manifold_core.experiments.remark1 import differences

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
