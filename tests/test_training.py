"""The training loop: order of the samples, schedule, divergence, and a model whose optimum is known in closed form."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import noise_words
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.training import STREAM_ORDER, batches, noise_seed, sample_order


def test_order_is_a_shuffle_that_depends_on_seed_and_epoch_alone() -> None:
    orders = {key: sample_order(*key, 1000) for key in ((0, 0), (0, 1), (1, 0))}
    for order in orders.values():
        assert sorted(order.tolist()) == list(range(1000))
    assert len({tuple(order.tolist()) for order in orders.values()}) == 3
    torch.rand(5)  # the global generator plays no part
    assert torch.equal(sample_order(0, 1, 1000), orders[0, 1])


def test_order_never_changes_its_meaning() -> None:
    assert sample_order(3, 2, 10).tolist() == [2, 0, 1, 6, 9, 8, 7, 5, 4, 3]


def test_order_is_that_of_the_samples_philox_words() -> None:
    words = noise_words(torch.tensor(5), 1, 50, first_row=3, stream=STREAM_ORDER)[0, :50].numpy()
    assert sample_order(5, 3, 50).tolist() == np.argsort(words, kind="stable").tolist()
    assert not torch.equal(torch.from_numpy(words), noise_words(torch.tensor(5), 1, 50, first_row=3)[0, :50])


def test_every_sample_is_met_once_an_epoch() -> None:
    x = torch.arange(12.0).unsqueeze(1)
    config = mc.TrainingConfig(steps=8, batch_size=3)
    seen = [batch.squeeze(1).tolist() for batch in batches(x, config, 0)]
    assert sorted(chain(*seen[:4])) == sorted(chain(*seen[4:])) == x.squeeze(1).tolist()
    assert seen[:4] != seen[4:]
    resumed = [batch.squeeze(1).tolist() for batch in batches(x, config, 5)]
    assert resumed == seen[5:]


def test_left_over_samples_wait_and_a_small_set_is_one_batch() -> None:
    x = torch.arange(10.0).unsqueeze(1)
    assert [len(batch) for batch in batches(x, mc.TrainingConfig(steps=7, batch_size=4), 0)] == [4] * 7
    assert [len(batch) for batch in batches(x, mc.TrainingConfig(steps=2, batch_size=64), 0)] == [10, 10]


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


def test_divergence_is_named_with_its_step() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * float("nan")

    model = mc.VAE(Broken(), nn.Linear(5, 5), 5)
    with pytest.raises(mc.Diverged, match="the loss is nan at step 1;"):
        mc.train(model, torch.rand(8, 5), mc.TrainingConfig(steps=3), progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ({"seed": -1}, "seed must lie between 0 and 2"),
        ({"seed": 2**31}, "seed must lie between 0 and 2"),
    ],
)
def test_bad_configuration_is_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.TrainingConfig(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_no_samples_are_refused() -> None:
    with pytest.raises(mc.InputError, match="x must hold at least one sample"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(0, 5), mc.TrainingConfig(steps=1), progress=False)
