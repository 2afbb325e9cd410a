"""The training loop: order of the samples, schedule, divergence, and a model whose optimum is known in closed form."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import permutation, standard_normal
from runs import VECTORS, standardised, write_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import manifold_core as mc
from manifold_core import checkpoint
from manifold_core.run import build_model
from manifold_core.training import batches, noise_seed, schedule_table
from manifold_core.training.schedule import PLACES


def orders(samples: int, config: mc.TrainingConfig, first_step: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in batches(samples, config, first_step)]


def test_every_sample_is_met_once_an_epoch() -> None:
    config = mc.TrainingConfig(steps=8, batch_size=3)
    seen = orders(12, config)
    assert sorted(chain(*seen[:4])) == sorted(chain(*seen[4:])) == list(range(12))
    assert seen[:4] != seen[4:]
    assert orders(12, mc.TrainingConfig(steps=8, batch_size=3, seed=1)) != seen
    torch.rand(5)  # the global generator plays no part
    assert orders(12, config) == seen
    for first in range(9):
        assert orders(12, config, first) == seen[first:]


def test_left_over_samples_wait_and_a_small_set_is_one_batch() -> None:
    assert [len(batch) for batch in orders(10, mc.TrainingConfig(steps=7, batch_size=4))] == [4] * 7
    assert [len(batch) for batch in orders(10, mc.TrainingConfig(steps=2, batch_size=64))] == [10, 10]


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (1000, 64), (1000, 10**6), (70_000, 1024)])
def test_the_samples_of_a_step_are_places_of_the_permutation(
    monkeypatch: pytest.MonkeyPatch, samples: int, batch_size: int
) -> None:
    config = mc.TrainingConfig(steps=150, batch_size=batch_size, seed=2**31 - 1)
    seen = orders(samples, config)
    size = min(batch_size, samples)
    for step in (0, 1, 2, 66, 149):
        epoch, k = divmod(step, samples // size)
        places = torch.arange(k * size, (k + 1) * size).unsqueeze(0)
        expected = permutation(torch.tensor(2**31 - 1), torch.tensor([epoch]), places, samples)
        assert seen[step] == expected[0].tolist()
    monkeypatch.setitem(PLACES, "cpu", 1)  # how many are looked up at a time changes nothing
    assert orders(samples, config, 140) == seen[140:]


def test_order_never_changes_its_meaning() -> None:
    assert orders(10, mc.TrainingConfig(steps=2, batch_size=10, seed=3)) == [
        [8, 6, 7, 4, 2, 5, 3, 9, 1, 0],
        [9, 0, 2, 3, 4, 8, 1, 6, 7, 5],
    ]


def test_samples_may_come_out_of_a_network() -> None:
    """Features that were computed with gradients: training is not of that network."""
    images = torch.rand(40, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    network, conditions = nn.Linear(9, 6), nn.Linear(9, 2)
    config, trained = mc.TrainingConfig(steps=3, batch_size=8), []
    for detached in (False, True):
        x, c = network(images), conditions(images)
        model = mc.CVAE.mlp(6, 2, 3, (4,), elbo=mc.GaussianELBO(log_gamma=0.5))
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        mc.train(model, x.detach() if detached else x, config, condition=c.detach() if detached else c, progress=False)
        trained.append(model.state_dict())
    assert images.grad is network.weight.grad is conditions.weight.grad is None
    assert all(torch.equal(trained[0][name], tensor) for name, tensor in trained[1].items())


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 101, 20_000])
def test_schedule_is_one_cycle_and_its_corrections(steps: int) -> None:
    """Cosines: lr/25 up to lr for three tenths of the steps and down to lr/250,000; β₁ from 0.95 to 0.85 and back."""
    found = schedule_table(mc.TrainingConfig(steps=steps, learning_rate=0.02, log_gamma_rate=3.0, beta2=0.98))
    assert found.dtype == torch.float64
    assert found.shape == (steps, 5)
    step = np.arange(steps)
    top, last = 0.3 * max(steps, 2) - 1, max(steps, 2) - 1
    rising = step <= top
    part = np.where(rising, step / (top or 1), (step - top) / (last - top))
    weight = (1 + np.cos(math.pi * part)) / 2  # 1 at the start of either phase, 0 at its end
    lr = np.where(rising, 0.02 + (0.0008 - 0.02) * weight, 8e-8 + (0.02 - 8e-8) * weight)
    beta1 = np.where(rising, 0.85 + 0.1 * weight, 0.95 - 0.1 * weight)
    t = step + 1
    size = lr / (1 - beta1**t)
    expected = np.stack((size, 3 * size, 1 - beta1, np.full(steps, 0.02), (1 - 0.98**t) ** -0.5), axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_a_longer_cycle_ends_early() -> None:
    short, whole = (schedule_table(mc.TrainingConfig(steps, cycle_steps=200)) for steps in (30, 200))
    assert torch.equal(short, whole[:30])
    assert torch.equal(whole, schedule_table(mc.TrainingConfig(200)))
    assert not torch.equal(short, schedule_table(mc.TrainingConfig(30)))


def test_the_table_makes_the_steps_that_training_makes() -> None:
    """Adam written out, with the numbers of the table, against the loop."""
    config = mc.TrainingConfig(steps=25, batch_size=8, learning_rate=0.03, log_gamma_rate=4.0, beta2=0.9, seed=4)
    torch.manual_seed(0)
    model, x = mc.VAE.mlp(5, 2, (4,)).double(), torch.rand(30, 5, dtype=torch.float64)
    plain = copy.deepcopy(model)
    mc.train(model, x, config, progress=False)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    table = schedule_table(config).tolist()
    for step, index in enumerate(batches(30, config, 0)):
        gradients = torch.autograd.grad(plain(x[index], seed=noise_seed(4, step)).loss, list(plain.parameters()))
        size, of_log_gamma, one_minus_beta1, one_minus_beta2, correction = table[step]
        with torch.no_grad():
            for parameter, g, (m, v) in zip(plain.parameters(), gradients, moments, strict=True):
                m += one_minus_beta1 * (g - m)
                v.copy_((1 - one_minus_beta2) * v + one_minus_beta2 * g * g)
                rate = of_log_gamma if parameter is plain.elbo.log_gamma else size
                parameter -= rate * m / (v.sqrt() * correction + 1e-8)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=1e-9, atol=1e-12)


def test_it_is_adam_with_one_cycle_and_the_noise_of_the_step(tmp_path: Path) -> None:
    """A plain loop over the definitions: PyTorch's own Adam and schedule, the ELBO written out."""
    config = mc.TrainingConfig(steps=12, batch_size=64, learning_rate=0.01, seed=5)
    write_data(tmp_path)
    x = standardised(tmp_path / "vectors.npy", 0)[0].float()
    model, plain = build_model(VECTORS, (6,)), build_model(VECTORS, (6,))
    history = mc.train(model, x, config, progress=False)

    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=12)
    for step, index in enumerate(batches(len(x), config, 0)):
        batch = x[index]
        mu, log_var = plain.encoder(batch)
        noise = standard_normal(torch.tensor(5 * 2**32 + step), *mu.shape).float()
        error = (batch - plain.decoder(mu + (log_var / 2).exp() * noise)).square().sum(dim=1)
        log_gamma = plain.elbo.log_gamma
        nll = (error / log_gamma.exp() + 6 * (math.log(2 * math.pi) + log_gamma)) / 2
        kl = (mu.square() + log_var.exp() - 1 - log_var).sum(dim=1) / 2
        loss = (nll + kl).mean()
        assert history.neg_elbo[step] == pytest.approx(loss.item(), rel=1e-4)
        # Of before or after the step: by which log γ moves no more than a learning rate.
        assert history.gamma[step] == pytest.approx(log_gamma.exp().item(), rel=0.011)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


class Enough(Exception):
    pass


def stop_before(model: mc.VAE | mc.CVAE, step: int, error: type[BaseException] = Enough) -> None:
    """In the forward pass of the step, from 0, of a run of seed 0."""

    def stop(_module: nn.Module, _arguments: object, keywords: dict[str, int]) -> None:
        if keywords["seed"] == step:
            raise error

    model.register_forward_pre_hook(stop, with_kwargs=True)


@pytest.mark.parametrize("stopped", [False, True])
def test_frozen_parameters_stay_and_no_gradients_are_left(stopped: bool) -> None:
    """Also where gradients lie about from before they were frozen, on which Adam would go on."""
    torch.manual_seed(0)
    model, x, config = mc.VAE.mlp(5, 2, (4,)), torch.rand(64, 5), mc.TrainingConfig(steps=5, batch_size=16)
    model(x).loss.backward()
    model.encoder.requires_grad_(False)
    model.elbo.log_gamma.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    if stopped:
        stop_before(model, 3)
        with pytest.raises(Enough):
            mc.train(model, x, config, progress=False)
    else:
        mc.train(model, x, config, progress=False)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert parameter.grad is None, name


def test_no_two_steps_of_any_two_runs_share_their_noise() -> None:
    seeds = {noise_seed(run, step) for run in (0, 1, 2, 2**31 - 1) for step in (0, 1, 2, 2**32 - 1)}
    assert len(seeds) == 16
    assert max(seeds) < 2**63


def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca() -> None:
    """A linear VAE's optimum is known: −ELBO is the entropy term of probabilistic PCA (Tipping and Bishop, 1999), γ the
    mean of the eigenvalues left out, and as many dimensions are active as the model has signal."""
    generator = torch.Generator().manual_seed(0)
    d, r = 6, 1
    loadings = torch.randn(d, r, generator=generator) * 2
    x = torch.randn(4000, r, generator=generator) @ loadings.T + 0.5 * torch.randn(4000, d, generator=generator)
    x -= x.mean(dim=0)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))[::-1]
    noise = eigenvalues[r:].mean()
    optimum = 0.5 * (d * math.log(2 * math.pi) + np.log(eigenvalues[:r]).sum() + (d - r) * math.log(noise) + d)

    class Encoder(nn.Module):
        """At the optimum the posterior's mean is linear and its variance one vector."""

        def __init__(self) -> None:
            super().__init__()
            self.mu, self.log_var = nn.Linear(d, 4), nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.mu(x), self.log_var.expand(len(x), 4)

    torch.manual_seed(0)
    model = mc.VAE(Encoder(), nn.Linear(4, d), 4)
    mc.train(model, x, mc.TrainingConfig(steps=2000, batch_size=400, learning_rate=0.03), progress=False)
    measured = mc.evaluate(model, x)
    # One z for each of 4000 samples: the standard error of nll is sqrt(d / 2 / 4000) = 0.03.
    assert measured.neg_elbo == pytest.approx(optimum, abs=0.06)
    assert measured.gamma == pytest.approx(noise, rel=0.05)
    assert measured.active_dimensions == r


def test_history_holds_the_last_step_and_finite_numbers() -> None:
    x = torch.rand(64, 5)
    history = mc.train(mc.VAE.mlp(5, 2, (4,)), x, mc.TrainingConfig(steps=603, batch_size=32), progress=False)
    assert history.step[-1] == 603
    assert len(history.step) == len(history.neg_elbo) == len(history.gamma) == len(history.active_dimensions)
    assert np.isfinite(history.neg_elbo).all()
    assert min(history.gamma) > 0


class BreaksAt(nn.Module):
    """An encoder whose variance is NaN in the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.layer, self.step, self.seen = nn.Linear(5, 4), step, 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layer(x).chunk(2, dim=1)
        self.seen += 1
        return mu, log_var * float("nan") if self.seen == self.step else log_var


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("step", [1, 2, 7, 102])
def test_divergence_stops_before_its_step(gamma: str, step: int) -> None:
    """Of 2,000 steps every fourth makes a record; the loss is looked at in all."""

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(BreaksAt(breaks_at), nn.Linear(2, 5), 2, mc.GaussianELBO(gamma))  # type: ignore[arg-type]

    class Enough(Exception):
        pass

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)
    found, expected = model(step), model(0)
    first = ", before any training: the model gives none that is finite; x and condition should have a scale of about 1"
    then = first if step == 1 else "; a lower learning_rate may help"
    with pytest.raises(mc.Diverged, match=rf"^the loss is nan at step {step}{then}$") as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == step
    assert math.isnan(caught.value.loss)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.step) == (str(caught.value), step)

    def stop(_module: nn.Module, _arguments: object) -> None:
        if expected.encoder.seen == step - 1:  # type: ignore[operator]
            raise Enough

    expected.register_forward_pre_hook(stop)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize(("step", "seen_at", "before"), [(2, 4, 1), (4, 4, 1), (6, 8, 4), (9, 12, 8)])
def test_where_not_every_loss_is_looked_at_the_weights_of_the_last_look_come_back(
    monkeypatch: pytest.MonkeyPatch, gamma: str, step: int, seen_at: int, before: int
) -> None:
    """As on a GPU: of 2,000 steps every fourth makes a record, and its loss alone is read."""
    monkeypatch.setattr("manifold_core.training.loop._reads_every_loss", lambda _device: False)

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(BreaksAt(breaks_at), nn.Linear(2, 5), 2, mc.GaussianELBO(gamma))  # type: ignore[arg-type]

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)
    found, expected = model(step), model(0)
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == seen_at
    stop_before(expected, before - 1)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


class RootOfZero(nn.Linear):
    """A decoder whose output is finite, and its gradient is not, in the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__(2, 5)
        self.step, self.seen = step, 0

    def forward(self, z: Tensor) -> Tensor:
        self.seen += self.training  # not where a checkpoint looks at the loss
        out = super().forward(z)
        return out + (0 * out).abs().sqrt() if self.seen == self.step else out


@pytest.mark.parametrize(("step", "before", "seen_at"), [(1, 0, 2), (7, 3, 8), (10, 7, 11), (2000, 1999, 2000)])
def test_a_gradient_that_is_not_finite_leaves_weights_that_are(
    tmp_path: Path, step: int, before: int, seen_at: int
) -> None:
    """Of 2,000 steps every fourth makes a record; those before it have the last weights that were kept. In the last
    step there is no other loss to see it by."""

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, RootOfZero(breaks_at), 2)

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)
    found, expected = model(step), model(0)
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False, folder=tmp_path, checkpoint_seconds=0)
    assert caught.value.step == seen_at
    stop_before(expected, before)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    kept = checkpoint.load(tmp_path)
    assert (kept is None) == (step == 1)
    if kept is not None:
        assert kept.state["step"] == step - 1
        assert all(tensor.isfinite().all() for name, tensor in kept.tensors.items() if name.startswith("model."))


def test_frozen_modules_stay_in_evaluation_mode() -> None:
    """With all they have: running statistics do not move, nothing is dropped. One that trains in part is trained."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).requires_grad_(False).eval()
    partly = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.BatchNorm1d(4)).eval()
    head = mc.VAE.mlp(4, 2, (4,)).encoder
    modes = []

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.partly, self.head = frozen, partly, head

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            modes.append((frozen[1].training, frozen[2].training, partly[0].training, partly[1].training))
            pair: tuple[Tensor, Tensor] = self.head(self.partly(self.frozen(x)))
            return pair

    mc.train(mc.VAE(Encoder(), nn.Linear(2, 5), 2), torch.rand(64, 5), mc.TrainingConfig(3, 16), progress=False)
    assert set(modes) == {(False, False, False, True)}
    assert torch.equal(frozen[1].running_mean, torch.zeros(4))
    assert not torch.equal(partly[1].running_mean, torch.zeros(4))


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.filterwarnings("ignore:x is about")
def test_a_batch_that_diverges_leaves_no_trace_in_running_statistics(ours: bool) -> None:
    """One sample is too large, of the batch of step 3; a run that is stopped before it has the same numbers."""

    def model() -> mc.VAE:
        torch.manual_seed(0)
        made = mc.VAE.conv((1, 8, 8), 2, 3)
        return made if ours else mc.networks.by_pytorch(made)

    x, config = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), mc.TrainingConfig(8, 10)
    x[orders(40, config)[3][0]] = 1e25
    found, expected = model(), model()
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == 4
    stop_before(expected, 3)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ({"log_gamma_rate": 0.0}, "log_gamma_rate must be positive and finite, got 0.0"),
        ({"beta2": 1.0}, "beta2 must lie between 0 and 1, got 1.0"),
        ({"beta2": float("nan")}, "beta2 must lie between 0 and 1, got nan"),
        ({"seed": -1}, "seed must be an integer from 0 to 2"),
        ({"seed": 2**31}, "seed must be an integer from 0 to 2"),
        ({"steps": 1.0}, "steps must be a positive integer, got 1.0"),
        ({"batch_size": True}, "batch_size must be a positive integer, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"beta2": None}, "beta2 must be a number, got None"),
        ({"seed": "0"}, "seed must be an integer from 0 to 2"),
        ({"cycle_steps": 0}, "cycle_steps must be a positive integer, got 0"),
        ({"steps": 10, "cycle_steps": 9}, "cycle_steps must be at least steps, 10, got 9"),
    ],
)
def test_bad_configuration_is_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.TrainingConfig(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_numbers_of_numpy_are_taken_as_python_s() -> None:
    config = mc.TrainingConfig(np.int64(3), np.int32(4), np.float32(0.5), beta2=np.float64(0.5), seed=np.int8(1))  # type: ignore[arg-type]
    assert config == mc.TrainingConfig(3, 4, 0.5, beta2=0.5, seed=1)
    assert json.loads(json.dumps(asdict(config))) == asdict(config)


def test_a_loss_that_is_no_number_is_refused() -> None:
    model = mc.VAE.mlp(5, 2, elbo=mc.GaussianELBO(reduction="none"))
    with pytest.raises(mc.InputError, match="elbo must have reduction='mean' or 'sum' to be trained, got 'none'"):
        mc.train(model, torch.rand(9, 5), mc.TrainingConfig(steps=1), progress=False)


def test_no_samples_are_refused() -> None:
    with pytest.raises(mc.InputError, match="x must hold at least one sample"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(0, 5), mc.TrainingConfig(steps=1), progress=False)


def test_something_else_than_a_configuration_is_refused() -> None:
    with pytest.raises(mc.InputError, match=r"^config must be a TrainingConfig, such as .*, got \{'steps': 3\}$"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), {"steps": 3}, progress=False)  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"got Tensor of shape \(9, 2\): give a condition by its name"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), torch.rand(9, 2), progress=False)  # type: ignore[arg-type]


def test_the_bar_shows_what_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    """−ELBO of a sample, as the curve: neither the weight of the KL nor the sum over the batch plays a part."""
    model = mc.VAE.mlp(5, 2, elbo=mc.GaussianELBO(beta=50.0, reduction="sum"))
    history = mc.train(model, torch.rand(9, 5), mc.TrainingConfig(steps=1))
    printed = capsys.readouterr().err
    assert f"neg_elbo={history.neg_elbo[-1]:.2f}" in printed
    assert "loss=" not in printed


class Extra(nn.Linear):
    """A layer with a state of its own besides its tensors."""

    extra: object = None

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{"calls": 3}, None, 5])
def test_state_that_is_no_tensor_is_no_obstacle_without_a_folder(tmp_path: Path, extra: object) -> None:
    x, config = torch.rand(9, 5), mc.TrainingConfig(steps=2, batch_size=4)
    model = mc.VAE.mlp(5, 2)
    model.decoder = Extra(2, 5)
    model.decoder.extra = extra
    before = model.decoder.weight.clone()
    with pytest.raises(mc.InputError) as caught:
        mc.train(model, x, config, folder=tmp_path / "new", progress=False)
    kind = type(extra).__name__
    assert str(caught.value) == (
        f"model must have a state of tensors alone where a folder is given, got {kind} as decoder._extra_state"
    )
    assert not (tmp_path / "new").exists()
    assert torch.equal(model.decoder.weight, before)
    mc.train(model, x, config, progress=False)
    assert not torch.equal(model.decoder.weight, before)
    assert model.decoder.extra is extra


def test_state_that_is_a_tensor_is_kept(tmp_path: Path) -> None:
    x, config = torch.rand(9, 5), mc.TrainingConfig(steps=2, batch_size=4)
    for extra in (torch.tensor([1, 2]), torch.tensor([0, 0])):
        model = mc.VAE.mlp(5, 2)
        model.decoder = Extra(2, 5)
        model.decoder.extra = extra
        mc.train(model, x, config, folder=tmp_path, progress=False)
        assert torch.equal(model.decoder.extra, torch.tensor([1, 2]))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layers(x).chunk(2, dim=1)
        return mu, log_var


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_are_trained_but_not_into_a_folder(tmp_path: Path) -> None:
    x, config = torch.rand(40, 5), mc.TrainingConfig(steps=5, batch_size=10)

    def model() -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(Lazy(), nn.Linear(2, 5), 2)

    lazy, called = model(), model()
    called.eval()(x)
    called.train()
    with pytest.raises(mc.InputError, match=r"got encoder\.layers\.0\.weight of a lazy module: call the model once"):
        mc.train(lazy, x, config, folder=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    mc.train(called, x, config, folder=tmp_path / "new", progress=False)
    curve = mc.train(lazy, x, config, progress=False).neg_elbo
    assert len(curve) == 5
    assert np.isfinite(curve).all()


def toy() -> tuple[Tensor, Tensor]:
    """Samples, and a condition that says half of what they vary by."""
    u = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    return torch.tanh(u @ torch.randn(4, 6, generator=torch.Generator().manual_seed(1))), u[:, :2]


def cvae(prior: str = "learned") -> mc.CVAE:
    torch.manual_seed(0)
    return mc.CVAE.mlp(6, 2, 3, (8,), condition_hidden=(5,), activation="prelu", prior=prior, attention=True)  # type: ignore[arg-type]


def test_samples_and_conditions_stay_together() -> None:
    """A plain loop over pairs, with PyTorch's own Adam and schedule."""
    (x, c), config = toy(), mc.TrainingConfig(30, 64, learning_rate=0.01, log_gamma_rate=7.0, beta2=0.99, seed=5)
    model, plain = cvae(), cvae()
    history = mc.train(model, x, config, condition=c, progress=False)
    networks = [*plain.encoder.parameters(), *plain.decoder.parameters()]
    networks += [p for part in (plain.prior, plain.gate) if part is not None for p in part.parameters()]
    groups = [{"params": networks}, {"params": [plain.elbo.log_gamma]}]
    optimizer = torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.01, 0.07], total_steps=30)
    for step in range(30):
        epoch, k = divmod(step, 3)
        places = torch.arange(64 * k, 64 * (k + 1)).unsqueeze(0)
        index = permutation(torch.tensor(5), torch.tensor([epoch]), places, 200)[0]
        loss = plain(x[index], c[index], seed=5 * 2**32 + step).loss
        assert history.neg_elbo[step] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop", [1, 17, 39])
@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_a_stopped_cvae_goes_on_to_the_same_numbers(tmp_path: Path, prior: str, stop: int) -> None:
    (x, c), config = toy(), mc.TrainingConfig(steps=40, batch_size=64)
    expected, stopped, found = cvae(prior), cvae(prior), cvae(prior)
    curve = mc.train(expected, x, config, condition=c, progress=False)

    def interrupt(_module: nn.Module, _arguments: object, _keywords: dict[str, int]) -> None:
        if _keywords["seed"] == stop:
            raise KeyboardInterrupt

    stopped.register_forward_pre_hook(interrupt, with_kwargs=True)
    with pytest.raises(KeyboardInterrupt):
        mc.train(stopped, x, config, condition=c, folder=tmp_path, checkpoint_seconds=0, progress=False)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == stop
    history = mc.train(found, x, config, condition=c, folder=tmp_path, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert (history.neg_elbo, history.active_dimensions) == (curve.neg_elbo, curve.active_dimensions)


def test_frozen_parameters_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """Another pretrained encoder in the same folder is another run, and so is one that is trained."""
    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=6, batch_size=16)

    def model(seed: int, *frozen: str) -> mc.VAE:
        torch.manual_seed(seed)
        made = mc.VAE.mlp(5, 2, (4,))
        for name in frozen:
            made.get_submodule(name).requires_grad_(False)
        return made

    begun = model(0, "encoder")
    stop_before(begun, 4)
    with pytest.raises(Enough):
        mc.train(begun, x, config, folder=tmp_path, checkpoint_seconds=0, progress=False)
    for other, where in (
        (model(1, "encoder"), "frozen.values is '"),
        (model(0, "encoder", "decoder"), "frozen.parameters"),
        (model(0), "frozen is {"),
    ):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(mc.InputError) as caught:
            mc.train(other, x, config, folder=tmp_path, progress=False)
        assert f"checkpoint is of another run: its {where}" in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    same, undisturbed = model(0, "encoder"), model(0, "encoder")
    mc.train(same, x, config, folder=tmp_path, progress=False)
    mc.train(undisturbed, x, config, progress=False)
    assert all(torch.equal(tensor, undisturbed.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_a_model_without_frozen_parameters_is_described_as_ever(tmp_path: Path) -> None:
    """Checkpoints of earlier versions go on."""
    mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), mc.TrainingConfig(steps=1), folder=tmp_path, progress=False)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.state["identity"].keys() == {"model", "x", "training"}


def test_an_identity_is_compared_as_json_has_it(tmp_path: Path) -> None:
    """A tuple comes back as a list, and the number of a key as text."""
    x, config = torch.rand(9, 5), mc.TrainingConfig(steps=2)

    def train(identity: dict[Any, Any]) -> None:
        mc.train(mc.VAE.mlp(5, 2), x, config, folder=tmp_path, identity=identity, progress=False)

    train({"sides": (2, 3), 7: {"deep": (1,)}})
    train({"sides": (2, 3), 7: {"deep": (1,)}})
    train({"sides": [2, 3], "7": {"deep": [1]}})
    with pytest.raises(mc.InputError, match=r"its sides is \[2, 3\], expected \[2, 4\]"):
        train({"sides": (2, 4), 7: {"deep": (1,)}})


@pytest.mark.parametrize("value", [np.int64(3), {1}, torch.zeros(1), float("nan"), Path("x")])
def test_an_identity_that_is_no_json_is_refused_before_training(tmp_path: Path, value: object) -> None:
    model, folder = mc.VAE.mlp(5, 2), tmp_path / "new"
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(mc.InputError, match=r"^identity must be of what JSON can hold, got \{'day': .*\}: "):
        mc.train(model, torch.rand(9, 5), mc.TrainingConfig(1), folder=folder, identity={"day": value}, progress=False)
    assert not folder.exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ({"x": "file A", "day": 3}, "identity must have other keys than condition, .*, x, .* got 'x'"),
        ({"training": {}}, "got 'training'"),
        ("run1", "identity must be a dictionary, .*, got 'run1'"),
        ([("day", 3)], "identity must be a dictionary"),
    ],
)
def test_an_identity_that_would_be_lost_is_refused(tmp_path: Path, folder: bool, identity: Any, said: str) -> None:
    place = tmp_path if folder else None
    with pytest.raises(mc.InputError, match=said):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), mc.TrainingConfig(1), folder=place, identity=identity)


@pytest.mark.parametrize("function", [mc.active_dimensions, mc.evaluate, "train"])
def test_a_condition_has_to_go_with_model_and_samples(function: Callable[..., object]) -> None:
    def call(model: mc.VAE | mc.CVAE, x: Tensor, condition: Tensor | None) -> None:
        if callable(function):
            function(model, x, condition)
        else:
            mc.train(model, x, mc.TrainingConfig(steps=1), condition=condition, progress=False)

    x, c = toy()
    with pytest.raises(mc.InputError, match=r"condition must be None for a VAE, got a tensor of shape \(200, 2\)"):
        call(mc.VAE.mlp(6, 2), x, c)
    with pytest.raises(mc.InputError, match="condition must be given for a CVAE"):
        call(cvae(), x, None)
    for bad, found in ((c[:150], r"\(150, 2\)"), (c[:, :1], r"\(200, 1\)"), (c[:, 0], r"\(200,\)")):
        with pytest.raises(mc.InputError, match=rf"condition must be .* of shape \[200, 2\], .* got shape {found}"):
            call(cvae(), x, bad)
    with pytest.raises(mc.InputError, match="x must hold at least one sample, got none"):
        call(cvae(), x[:0], c[:0])


@pytest.mark.parametrize("function", [mc.active_dimensions, mc.evaluate, "train"])
def test_samples_and_conditions_are_where_the_model_is(function: Callable[..., object]) -> None:
    """The meta device stands for a GPU."""

    def call(model: mc.VAE | mc.CVAE, x: Tensor, condition: Tensor | None = None) -> None:
        if callable(function):
            function(model, x, condition)
        else:
            mc.train(model, x, mc.TrainingConfig(steps=1), condition=condition, progress=False)

    x, c, vae, cvae = torch.rand(9, 4), torch.rand(9, 2), mc.VAE.mlp(4, 2), mc.CVAE.mlp(4, 2, 2)
    with pytest.raises(mc.InputError, match=r"^x must be on the device of the model, meta, got cpu: x\.to\(device\)$"):
        call(mc.VAE.mlp(4, 2).to("meta"), x)
    with pytest.raises(mc.InputError, match=r"^x must be on the device of the model, cpu, got meta"):
        call(vae, x.to("meta"))
    with pytest.raises(mc.InputError, match=r"^condition must be on the device of the model, cpu, got meta"):
        call(cvae, x, c.to("meta"))
    with pytest.raises(
        mc.InputError, match=r"^x must be dense, got a tensor of layout torch\.sparse_coo; x\.to_dense\(\)"
    ):
        call(vae, x.to_sparse())
    with pytest.raises(mc.InputError, match=r"^condition must be dense, got a tensor of layout torch\.sparse_coo; "):
        call(cvae, x, c.to_sparse())


def test_a_condition_of_nothing_trains() -> None:
    """To see what it brings: nothing is as if there were none."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = mc.VAE.mlp(4, 2, (3,)).encoder

        def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            pair: tuple[Tensor, Tensor] = self.head(torch.cat((x, c), 1))
            return pair

    class Decoder(nn.Linear):
        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            return super().forward(torch.cat((z, c), 1))

    model, x, c = mc.CVAE(Encoder(), Decoder(2, 4), 2), torch.rand(20, 4), torch.zeros(20, 0)
    mc.train(model, x, mc.TrainingConfig(steps=2, batch_size=8), condition=c, progress=False)
    assert mc.evaluate(model, x, c).samples == 20


@pytest.mark.parametrize("by", ["loop", "ensemble"])
def test_data_of_another_scale_are_warned_of(by: str) -> None:
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    config = mc.TrainingConfig(steps=1, batch_size=8)

    def train(x: Tensor) -> None:
        if by == "loop":
            mc.train(mc.VAE.mlp(4, 2), x, config, progress=False)
        else:
            mc.train_ensemble([mc.ModelSpec(2, training=config)], x, progress=False)

    for fitting in (15 * x, x / 10):  # 9 in size, and 0.06: no warning, which would be an error here
        train(fitting)
    for other in (40 * x, x + 20, x / 50):
        with pytest.warns(UserWarning, match=r"x is about .* in size, where training expects about 1.*standardise"):
            train(other)


@pytest.mark.parametrize("by", ["loop", "ensemble"])
def test_a_large_condition_is_warned_of(by: str) -> None:
    x, years = torch.rand(50, 4), torch.arange(1990, 2040)[:, None]
    config = mc.TrainingConfig(steps=1, batch_size=8)

    def train(condition: Tensor) -> None:
        torch.manual_seed(1)  # with many others the first loss is infinite
        if by == "loop":
            mc.train(mc.CVAE.mlp(4, condition.shape[1], 2), x, config, condition=condition, progress=False)
        else:
            spec = mc.ModelSpec(2, condition_dim=condition.shape[1], training=config)
            mc.train_ensemble([spec], (x, condition), progress=False)

    train(torch.eye(50).bool())  # classes: no warning
    for large in (years, (years - 1900).float()):
        with pytest.warns(UserWarning, match=r"condition is about .* in size, where .* about 1: the loss may blow up"):
            train(large)


def test_labels_that_a_network_embeds_are_no_large_numbers() -> None:
    class Embedded(nn.Module):
        condition_shape = ()

        def __init__(self, outputs: int, pair: bool) -> None:
            super().__init__()
            self.of_label, self.layer, self.pair = nn.Embedding(3000, 4), nn.Linear(8, outputs), pair

        def forward(self, x: Tensor, label: Tensor) -> Any:
            y = self.layer(torch.cat([nn.functional.pad(x, (0, 4 - x.shape[1])), self.of_label(label)], 1))
            return y.chunk(2, 1) if self.pair else y

    model = mc.CVAE(Embedded(4, True), Embedded(4, False), 2)
    config = mc.TrainingConfig(steps=1, batch_size=8)
    mc.train(model, torch.rand(50, 4), config, condition=torch.arange(2000, 2050), progress=False)


def test_weights_that_cannot_be_trained_are_refused() -> None:
    x, config = torch.rand(50, 4), mc.TrainingConfig(steps=1)
    for dtype in (torch.bfloat16, torch.float16):
        model = mc.VAE.mlp(4, 2).to(dtype)
        with pytest.raises(mc.InputError, match=rf"^model must have trainable weights of float32 or .* of {dtype}"):
            mc.train(model, x.to(dtype), config, progress=False)
    model = mc.VAE.mlp(4, 2).requires_grad_(False)
    with pytest.raises(mc.InputError, match=r"^model must have a parameter that requires a gradient, got none$"):
        mc.train(model, x, config, progress=False)


def test_training_where_there_are_no_gradients_is_refused() -> None:
    model, x = mc.VAE.mlp(4, 2), torch.rand(50, 4)
    with torch.inference_mode(), pytest.raises(mc.InputError, match=r"outside of torch\.inference_mode\(\)"):
        mc.train(model, x, mc.TrainingConfig(steps=1), progress=False)


@pytest.mark.parametrize("seconds", ["5", None, True, -1, float("nan")])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    x, config = torch.rand(50, 4), mc.TrainingConfig(steps=1)
    with pytest.raises(mc.InputError, match=rf"^checkpoint_seconds must .*, got {seconds!r}$"):
        mc.train(mc.VAE.mlp(4, 2), x, config, checkpoint_seconds=seconds, progress=False)
    with pytest.raises(mc.InputError, match=rf"^checkpoint_seconds must .*, got {seconds!r}$"):
        mc.train_ensemble([mc.ModelSpec(2, training=config)], x, checkpoint_seconds=seconds, progress=False)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (np.zeros((5, 4)), "got ndarray; torch.as_tensor"),
        ([[0.0] * 4], "got list; torch.as_tensor"),
        (DataLoader(TensorDataset(torch.rand(5, 4))), "got DataLoader; give all samples as one tensor, or train by "),
        (3, "got int$"),
    ],
)
def test_what_is_no_tensor_is_named_and_how_it_becomes_one(given: Any, hint: str) -> None:
    with pytest.raises(mc.InputError, match=rf"^x must be a tensor, {hint}"):
        mc.train(mc.VAE.mlp(4, 2), given, mc.TrainingConfig(steps=1), progress=False)
