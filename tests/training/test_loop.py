"""The training loop: order of the samples, schedule, checkpoints, and a model whose optimum is known in closed form."""

import copy
import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import permutation, standard_normal
from runs import VECTORS, Enough, cvae, orders, standardised, stop_before, toy, write_data
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.run import build_model
from manifold_core.storage import checkpoint
from manifold_core.training import batches, noise_seed, schedule_table
from manifold_core.training.schedule import PLACES


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


def step_by(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    """As PyTorch's users write it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


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
        step_by(loss, optimizer, schedule)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


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
    history = mc.train(mc.VAE.mlp(5, 2, (4,)), x, mc.TrainingConfig(steps=1001, batch_size=32), progress=False)
    assert history.step[-2:] == [1000, 1001]
    assert len(history.step) == len(history.neg_elbo) == len(history.gamma) == len(history.active_dimensions)
    assert np.isfinite(history.neg_elbo).all()
    assert min(history.gamma) > 0


def test_history_is_told_in_a_line() -> None:
    found = mc.History([500, 1000], [4.0, -3.391234], [1.0, 0.03234567], [0, 3], 1.44)
    assert repr(found) == "History(1000 steps, neg_elbo=-3.391, gamma=0.0323, active_dimensions=3, 1.4 s)"
    assert repr(mc.History()) == "History(0 steps, 0.0 s)"
    assert repr(mc.History([1], [math.nan], [1.0], [0])).startswith("History(1 step, neg_elbo=nan, ")
    assert mc.History(**json.loads(json.dumps(found.as_dict()))) == found
    assert list(found.as_dict()) == ["step", "neg_elbo", "gamma", "active_dimensions", "seconds"]


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
        f"model must have a state of tensors alone if a folder is given, got {kind} as decoder._extra_state"
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
        step_by(loss, optimizer, schedule)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop", [1, 17, 39])
@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_a_stopped_cvae_goes_on_to_the_same_numbers(tmp_path: Path, prior: str, stop: int) -> None:
    (x, c), config = toy(), mc.TrainingConfig(steps=40, batch_size=64)
    expected, stopped, found = cvae(prior), cvae(prior), cvae(prior)
    curve = mc.train(expected, x, config, condition=c, progress=False)
    stop_before(stopped, stop, KeyboardInterrupt)
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


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layer(self.drop(x)).chunk(2, dim=1)
        return mu, log_var


@pytest.mark.parametrize("seed", [0, 5])
def test_what_a_network_draws_is_of_the_seed(seed: int) -> None:
    drawn: list[float] = []

    class Draws(nn.Linear):
        def forward(self, z: Tensor) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().forward(z)

    model = mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, Draws(2, 5), 2)
    mc.train(model, torch.rand(64, 5), mc.TrainingConfig(3, 16, seed=seed), progress=False)
    generator = torch.Generator().manual_seed(seed)
    assert drawn == [torch.rand((), generator=generator).item() for _ in range(3)]


def dropping() -> mc.VAE:
    torch.manual_seed(0)
    return mc.VAE(Dropping(), nn.Linear(2, 5), 2)


def test_after_each_record_the_curves_are_shown() -> None:
    """In evaluation mode; what is drawn and measured there changes nothing of the training."""
    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=1200, batch_size=8)
    model, plain, seen = dropping(), dropping(), []

    def look(history: mc.History) -> float:
        torch.rand(3)
        assert not any(module.training for module in model.modules())
        seen.append((history.step[-1], len(history.neg_elbo), mc.evaluate(model, x).neg_elbo))
        return seen[-1][2]  # a number is no yes

    history = mc.train(model, x, config, progress=False, after_record=look)
    expected = mc.train(plain, x, config, progress=False)
    assert [step for step, _, _ in seen] == history.step == expected.step
    assert [points for _, points, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][2] == mc.evaluate(plain, x).neg_elbo
    for name, part in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], part), name


@pytest.mark.parametrize("yes", [True, np.bool_(True), torch.tensor(True)])
def test_a_training_ends_where_it_is_told_to_and_goes_on(tmp_path: Path, yes: Any) -> None:
    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=40, batch_size=8)
    model, stopped, whole = dropping(), dropping(), dropping()
    history = mc.train(
        model,
        x,
        config,
        folder=tmp_path,
        progress=False,
        after_record=lambda history: yes if len(history.step) == 7 else None,
    )
    assert history.step == [1, 2, 3, 4, 5, 6, 7]
    stop_before(stopped, 7)
    with pytest.raises(Enough):
        mc.train(stopped, x, config, progress=False)
    for name, part in stopped.state_dict().items():
        assert torch.equal(model.state_dict()[name], part), name
    assert not model.training
    fresh = dropping()
    mc.train(fresh, x, config, folder=tmp_path, progress=False)
    mc.train(whole, x, config, progress=False)
    for name, part in whole.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], part), name


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(mc.InputError, match=r"after_record must be a function of the curves, or None, got 3$"):
        mc.train(dropping(), torch.rand(8, 5), after_record=3)  # type: ignore[arg-type]
