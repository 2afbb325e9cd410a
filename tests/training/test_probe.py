"""Weights of a checkpoint do in the network that takes them what they did when they were saved, or it is refused."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ensemble.kinds import kinds, toy
from instruction_sets import NEEDS_COMPILED
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.models.elbo import ELBOTerms
from manifold_core.storage import checkpoint

X = torch.tanh(
    torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    @ torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
)
CONFIG = mc.TrainingConfig(steps=40, batch_size=64, learning_rate=0.02)

Function = Callable[[Tensor], Tensor]


class Applied(nn.Module):
    """A function that its text does not show."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def vae(function: Function, seed: int = 0) -> mc.VAE:
    torch.manual_seed(seed)
    model = mc.VAE.mlp(6, 3, (16,))
    model.decoder = nn.Sequential(nn.Linear(3, 16), Applied(function), nn.Linear(16, 6))
    return model


def train(model: mc.VAE, folder: Path, config: mc.TrainingConfig = CONFIG) -> mc.History:
    return mc.train(model, X, config, folder=folder, progress=False)


def stop_at(model: mc.VAE, step: int) -> None:
    def stop(_module: nn.Module, _arguments: object, keywords: dict[str, int]) -> None:
        if keywords["seed"] == step:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stop, with_kwargs=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(model: mc.VAE, x: Tensor, seed: int) -> float:
    """−ELBO, from the definition; the noise is that of the ops, whose own tests hold it against its definition."""
    with torch.no_grad():
        mu, log_var = (part.double() for part in model.encoder(x))
        z = mc.rsample_kl(mu, log_var, seed=seed)[0]
        error = (x - model.decoder(z.float())).double().square().sum(1)
        log_gamma = float(model.elbo.log_gamma)
        nll = (error / math.exp(log_gamma) + 6 * (math.log(2 * math.pi) + log_gamma)) / 2
        kl = (mu.square() + log_var.exp() - 1 - log_var).sum(1) / 2
    return float((nll + kl).mean())


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_a_checkpoint_keeps_the_loss_of_its_weights(tmp_path: Path, batch_size: int) -> None:
    """Of a mini-batch, and of no more than 256 samples."""
    model = vae(torch.relu)
    train(model, tmp_path, replace(CONFIG, batch_size=batch_size))
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.state["neg_elbo"] == pytest.approx(written(model, X[: min(batch_size, 256)], 2**63 - 1), rel=1e-5)


@pytest.mark.parametrize("step", [1, 39, None])
def test_a_network_whose_function_was_exchanged_is_refused(tmp_path: Path, step: int | None) -> None:
    """Or else the numbers of the first would be returned as those of the second."""
    first = vae(torch.relu)
    if step is None:
        train(first, tmp_path)
    else:
        stop_at(first, step)
        with pytest.raises(KeyboardInterrupt):
            mc.train(first, X, CONFIG, folder=tmp_path, checkpoint_seconds=0, progress=False)
    before = contents(tmp_path)
    for function in (torch.tanh, torch.sigmoid, torch.abs, lambda h: h / 0, lambda h: h * math.nan):
        model = vae(function, seed=1)
        weights = copy.deepcopy(model.state_dict())
        with pytest.raises(mc.InputError) as caught:
            train(model, tmp_path)
        message = str(caught.value)
        assert message.startswith(
            f"model must be the one whose checkpoint is in folder {str(tmp_path)!r}: its weights give a -ELBO of "
        )
        assert message.endswith("; has its code changed?")
        assert contents(tmp_path) == before
        for name, tensor in model.state_dict().items():  # or else it would go on elsewhere from those of the first
            assert torch.equal(tensor, weights[name]), name
    train(vae(torch.relu, seed=2), tmp_path)  # the weights it begins with are its own business


def test_so_is_one_of_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, steps=400)
    train(vae(torch.relu), tmp_path, config)
    train(vae(torch.relu), tmp_path, config)
    monkeypatch.setattr(Applied, "forward", lambda self, x: 1.1 * self.function(x))
    with pytest.raises(mc.InputError, match="model must be the one whose checkpoint is in folder"):
        train(vae(torch.relu), tmp_path, config)


def coarse(x: Tensor) -> Tensor:
    """As the tensor cores of a GPU take float32: TF32, of ten bits."""
    return ((x.view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)


@pytest.mark.parametrize("log_gamma", [None, -5.0, -10.0, -14.0])
def test_other_rounding_is_no_other_network(tmp_path: Path, log_gamma: float | None) -> None:
    """A device with less precision: the smaller γ is, the more does its loss depend on that."""
    elbo = mc.GaussianELBO() if log_gamma is None else mc.GaussianELBO("fixed", log_gamma)

    def model(rounded: bool) -> mc.VAE:
        made = vae((lambda h: coarse(torch.relu(h))) if rounded else torch.relu)
        made.elbo = copy.deepcopy(elbo)
        if rounded:
            made.encoder.register_forward_pre_hook(lambda _module, arguments: (coarse(arguments[0]),))
            made.encoder.register_forward_hook(lambda _module, _arguments, found: tuple(map(coarse, found)))
            made.decoder.register_forward_hook(lambda _module, _arguments, found: coarse(found))
        return made

    config = replace(CONFIG, steps=400)
    train(model(False), tmp_path, config)
    train(model(True), tmp_path, config)


@pytest.mark.parametrize("log_gamma", [-6.0, -14.0])
def test_nor_is_that_of_half_precision(tmp_path: Path, log_gamma: float) -> None:
    """Samples of half the size are measured as they are trained on."""
    config = replace(CONFIG, precision="bfloat16")

    def model(function: Function, exact: bool = False) -> mc.VAE:
        made = vae(function)
        made.elbo = mc.GaussianELBO("fixed", log_gamma)
        if exact:
            made.decoder.forward = torch.autocast("cpu", enabled=False)(made.decoder.forward)  # type: ignore[method-assign]
        return made

    def train(model: mc.VAE) -> None:
        mc.train(model, X.bfloat16(), config, folder=tmp_path, progress=False)

    train(model(torch.relu))
    train(model(torch.relu, exact=True))
    with pytest.raises(mc.InputError, match="has its code changed"):
        train(model(torch.abs))


OWN = torch.Generator().manual_seed(0)  # no checkpoint brings it back, as it does torch's


@pytest.mark.parametrize("function", [nn.functional.dropout, lambda h: h + torch.randn(h.shape, generator=OWN)])
def test_of_a_network_that_is_random_in_evaluation_mode_nothing_is_said(tmp_path: Path, function: Function) -> None:
    for seed in range(5):
        train(vae(function, seed), tmp_path)


class TrainsOnly(nn.Linear):
    """A user's, that is good for nothing else."""

    def forward(self, z: Tensor) -> Tensor:
        if not self.training or not torch.is_grad_enabled():
            raise RuntimeError("not now")
        return super().forward(z)


def test_a_network_that_runs_in_training_alone_loses_no_checkpoint(tmp_path: Path) -> None:
    def model() -> mc.VAE:
        torch.manual_seed(0)
        made = mc.VAE.mlp(6, 3, (16,))
        made.decoder = TrainsOnly(3, 6)
        return made

    stopped, found, expected = model(), model(), model()
    mc.train(expected, X, CONFIG, progress=False)
    stop_at(stopped, 9)
    with pytest.raises(KeyboardInterrupt):
        mc.train(stopped, X, CONFIG, folder=tmp_path, checkpoint_seconds=0, progress=False)
    train(found, tmp_path)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


class Counts(nn.Linear):
    """Writes into a buffer whatever its mode, and draws from torch's generator while it trains."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(nn.functional.dropout(z, 0.1, self.training)) + torch.rand(())


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    """With a checkpoint after each step as without any: weights, buffers, random numbers and modes."""
    outcomes, modes = [], []
    for folder in (None, tmp_path):
        torch.manual_seed(0)
        model = mc.VAE(mc.networks.MLPEncoder(6, 3, (8,)), nn.Sequential(Counts(3, 8), nn.BatchNorm1d(8)), 3)
        model.decoder.append(nn.Linear(8, 6))
        model.register_forward_pre_hook(lambda module, _: modes.append((module.training, module.decoder.training)))
        mc.train(model, X, replace(CONFIG, steps=9), folder=folder, checkpoint_seconds=0, progress=False)
        outcomes.append(copy.deepcopy(model.state_dict()))
    for name, tensor in outcomes[0].items():
        assert torch.equal(tensor, outcomes[1][name]), name
    assert outcomes[1]["decoder.0.calls"] == 9
    assert modes[:9] == [(True, True)] * 9
    assert modes[9:] == [(True, True), (False, False)] * 9 + [(False, False)]


def test_a_checkpoint_that_keeps_none_is_taken(tmp_path: Path) -> None:
    """Of an earlier version."""
    history = train(vae(torch.relu), tmp_path)
    index = tmp_path / checkpoint.INDEX
    content = json.loads(index.read_text(encoding="utf-8"))
    del content["state"]["neg_elbo"]
    index.write_text(json.dumps(content), encoding="utf-8")
    assert train(vae(torch.relu, seed=1), tmp_path) == history


@pytest.mark.parametrize("step", [9, None])
def test_what_a_checkpoint_makes_of_a_training_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int | None
) -> None:
    first = vae(torch.relu)
    if step is not None:
        stop_at(first, step)
        with pytest.raises(KeyboardInterrupt):
            mc.train(first, X, CONFIG, folder=tmp_path, checkpoint_seconds=0)
    else:
        mc.train(first, X, CONFIG, folder=tmp_path)
    assert "manifold-core: " not in capsys.readouterr().err
    if step is None:  # silent where no progress is wanted
        train(vae(torch.relu), tmp_path)
        assert capsys.readouterr() == ("", "")
    mc.train(vae(torch.relu), X, CONFIG, folder=tmp_path)
    finished = f"in {tmp_path} was already finished, nothing is trained"
    said = f"resumes at step {step} of 40 in {tmp_path}" if step else finished
    assert f"manifold-core: training {said}\n" in capsys.readouterr().err


@NEEDS_COMPILED
def test_so_it_is_of_an_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [*kinds(20)[:2], mc.ModelSpec(3, log_gamma=-200.0, training=mc.TrainingConfig(20, 100))]  # diverges at once
    mc.train_ensemble(specs, toy(), backend="cpu", folder=tmp_path)
    assert "manifold-core: " not in capsys.readouterr().err
    mc.train_ensemble(specs, toy(), backend="cpu", folder=tmp_path)
    said = f"manifold-core: training in {tmp_path} was already finished, nothing is trained\n"
    assert said in capsys.readouterr().err
    mc.train_ensemble(specs, toy(), backend="cpu", folder=tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


def test_terms_of_the_loss_that_are_no_numbers_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """In evaluation mode; the training looks at its own."""

    class Overflows(mc.VAE):
        def forward(self, *arguments: Tensor, **more: object) -> ELBOTerms:  # type: ignore[override]
            terms = super().forward(*arguments, **more)  # type: ignore[arg-type]
            return terms if self.training else terms._replace(kl=terms.kl * math.inf)

    for _ in range(2):
        train(Overflows(mc.networks.MLPEncoder(6, 3, (8,)), nn.Linear(3, 6), 3), tmp_path)
