"""What errors say of a value."""

import pytest
import torch
from torch import nn

import manifold_core as mc
from manifold_core.arguments import LONGEST, described


def test_a_value_is_described_in_one_short_line() -> None:
    assert described(torch.zeros(5, 4)) == "a tensor of shape (5, 4)"
    assert described(torch.tensor(2.5)) == "tensor(2.5000)"
    assert described(mc.VAE.mlp(5, 2)) == "VAE"
    assert described(nn.Linear) == repr(nn.Linear)
    assert described("a") == "'a'"
    assert described([0] * 100) == f"{[0] * 100}"[:LONGEST] + "…"


def test_errors_describe_values() -> None:
    model = mc.VAE.mlp(5, 2)
    with pytest.raises(mc.InputError, match=r"got a tensor of shape \(5, 4\)$"):
        model.sample(torch.randn(5, 4))  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"got VAE$"):
        mc.load_weights(model, model)  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"got VAE$"):
        mc.VAE(nn.Linear(5, 4), nn.Linear(2, 5), 2, elbo=model)  # type: ignore[arg-type]
