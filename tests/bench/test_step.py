"""All contenders for the training step minimise the same thing."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from manifold_core.bench import ensemble, profile, step
from manifold_core.bench.by_hand import negative_elbo


@pytest.mark.parametrize("name", ["manifold_core", "pyro", "pythae"])
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_the_losses_are_one(name: str) -> None:
    if name in ("pyro", "pythae"):
        pytest.importorskip(name, reason="a peer of the benchmarks: make peers")
    vae, x = step.model(), step.batch(16)
    head = vae.encoder.layers[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # without noise, with a posterior far from the prior
        head.weight[step.LATENTS :].zero_()
        head.bias[step.LATENTS :].fill_(-40)
        head.bias[: step.LATENTS].fill_(3)
    wanted = float(negative_elbo(vae, x))
    loss = step.LOSSES[name](vae)
    assert math.isclose(float(loss.of(x)) + loss.left_out, wanted, rel_tol=1e-6)
    gradient = torch.autograd.grad(loss.of(x), [head.bias])[0]
    exact = torch.autograd.grad(negative_elbo(vae, x), [head.bias])[0]
    torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-5)


def test_a_step_moves_the_weights_of_the_networks_that_are_counted() -> None:
    vae = step.model()
    loss = step.LOSSES["manifold_core"](vae)
    assert sum(p.numel() for p in loss.parameters if p.dim() == 2) == step.weights()
    before = [p.detach().clone() for p in loss.parameters]
    step.training_step(lambda _: loss, 4)()
    assert all((a != b).any() for a, b in zip(before, loss.parameters, strict=True))


@pytest.mark.parametrize("networks", ["step", "ensemble"])
def test_operations_are_those_of_the_layers(networks: str) -> None:
    """Of each weight of a layer a multiplication and an addition a sample, forward and for either gradient, but for
    that of x, which nobody wants."""
    if networks == "step":
        layers, found = list(step.model().modules()), step.COMPARISON.operations(10)
    else:
        eager = ensemble.Eager(16, 10, ensemble.data(), fused=False)
        layers = [*eager.encoder, *eager.decoder]
        found = ensemble.COMPARISON.operations(16, 10)
    weights = [layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear)]
    assert len(weights) == 4
    assert found == 2 * 10 * (3 * sum(weights) - weights[0])


def test_the_profile_has_the_operators_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(profile, "STEPS", 2)
    monkeypatch.setattr(profile, "WARM_UP", 1)
    trace = tmp_path / "trace.json"
    monkeypatch.setattr(sys, "argv", ["profile", "--batch", "8", "--trace", str(trace)])
    profile.main()
    said = capsys.readouterr().out
    assert "2 steps of manifold_core, B = 8" in said
    for name in ("aten::addmm", "adam"):
        assert name in said
    assert trace.stat().st_size > 1000


@pytest.mark.parametrize("options", [["--batch", "0"], ["--contender", "nobody"]])
def test_a_profile_of_nothing(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["profile", *options])
    with pytest.raises(SystemExit, match="2"):
        profile.main()
