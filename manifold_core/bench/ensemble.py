"""Whole training steps of small VAEs on a CPU, through ``train_ensemble``'s engine, and eager PyTorch with Adam.

A step gathers the mini-batch and runs forward, ELBO, backward and Adam; d = κ = 20, one hidden layer, 100,000 samples;
its time is per model. The operations are those of the layers' products; noise, KL and Adam do not count.

one model              on all threads
side by side           as many models as threads, one thread each
one model, one thread
full covariance        as one model, with a full covariance; nothing in eager PyTorch beside it
eager, fused Adam      as eager, with PyTorch's fastest Adam
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..covariance import Covariance
from ..ensemble import ModelSpec, train_ensemble
from ..ensemble.data import check_data
from ..ensemble.state import EngineState
from ..training import TrainingConfig
from . import by_hand
from .comparison import Call, Comparison, largest_difference

__all__ = [
    "COMPARISON",
    "LEARNING_RATE",
    "MANIFOLD",
    "WIDTH",
    "Eager",
    "check_going_on",
    "data",
    "engine",
    "multiply_adds",
    "specs",
]

SAMPLES, WIDTH, MANIFOLD = 100_000, 20, 6  # d = κ
LEARNING_RATE = 0.005
STEPS = 50_000  # more than are ever timed; the schedule takes time to make a row for each
SMALLEST = 1e-3  # a difference of weights is divided by no less: a bias may be near 0


def data(seed: int = 0) -> Tensor:
    """A smooth manifold of six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    u, w = torch.randn(SAMPLES, MANIFOLD, generator=generator), torch.randn(MANIFOLD, WIDTH, generator=generator)
    return torch.sigmoid(u @ w)


class Eager:
    """One model and its training as one writes them by hand, on the device and in the type of its data."""

    def __init__(self, hidden: int, batch: int, x: Tensor, *, fused: bool, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, 2 * WIDTH))
            decoder = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH))
        self.x, self.batch = x, batch
        self.encoder, self.decoder = encoder.to(x), decoder.to(x)
        self.log_gamma = nn.Parameter(x.new_zeros(()))
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters(), self.log_gamma]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=fused or None)

    def step(self, sample: Tensor, noise: Tensor) -> None:
        """On ``[B, d]`` samples with ``[B, κ]`` noise."""
        mu, log_var = self.encoder(sample).chunk(2, dim=1)
        z, kl = by_hand.sample_and_kl(mu, log_var, noise)
        nll = by_hand.nll(self.decoder(z), sample, self.log_gamma)
        self.optimizer.zero_grad()
        (nll + kl).mean().backward()
        self.optimizer.step()

    def __call__(self) -> None:
        """A step on samples and noise drawn at random."""
        x, device = self.x, self.x.device
        sample = x[torch.randint(len(x), (self.batch,), device=device)] if self.batch < len(x) else x
        self.step(sample, torch.randn(self.batch, WIDTH, device=device, dtype=x.dtype))


def specs(
    hidden: int,
    batch: int,
    models: int,
    steps: int = 10**6,
    data_sets: int = 1,
    covariance: Covariance = "diagonal",
) -> list[ModelSpec]:
    """This many models of one kind, on the data sets in turn."""
    training = [TrainingConfig(steps=steps, batch_size=batch, seed=seed) for seed in range(models)]
    return [
        ModelSpec(WIDTH, (hidden,), training=c, data=i % data_sets, covariance=covariance)
        for i, c in enumerate(training)
    ]


def multiply_adds(hidden: int) -> int:
    """For one sample: three products per layer, without the gradient of x, which is not needed."""
    return 3 * (WIDTH * hidden + hidden * 2 * WIDTH + WIDTH * hidden + hidden * WIDTH) - WIDTH * hidden


def error(hidden: int, batch: int) -> float:
    """The error of the weights after ten steps, with either covariance, against the reference backend."""
    models = specs(hidden, batch, 1, steps=10) + specs(hidden, batch, 1, steps=10, covariance="cholesky")
    ours, reference = (
        [
            weights
            for trained in train_ensemble(models, data()[: 2 * batch], backend=backend, progress=False)
            for weights in trained.model.parameters()
        ]
        for backend in ("cpu", "reference")
    )
    return largest_difference(ours, reference, SMALLEST)


def bytes_moved(hidden: int, batch: int) -> int:
    """The mini-batch, and for each parameter weight and moments, read and written; float32."""
    parameters = 5 * WIDTH * hidden + 2 * hidden + 3 * WIDTH + 1
    return 4 * (batch * WIDTH + 6 * parameters)


def check_going_on(state: EngineState) -> None:
    """Raise RuntimeError if a model has ended: the steps that it skips would look fast."""
    done, diverged = state.progress.cpu().unbind(1)
    if diverged.any() or any(int(n) >= spec.training.steps for n, spec in zip(done, state.specs, strict=True)):
        raise RuntimeError("models ended while they were timed")


def engine(models: int | None, threads: int | None, covariance: Covariance = "diagonal") -> Callable[..., Call]:
    """None means as many as PyTorch has threads."""

    def prepare(hidden: int, batch: int) -> Call:
        available = torch.get_num_threads()
        count, steps = models or available, max(2, 200 * 1024 // batch)
        state = EngineState(specs(hidden, batch, count, STEPS, covariance=covariance), check_data(data()))

        def run() -> None:
            torch.ops.manifold_core.ensemble_steps(state.words, steps, threads or available)
            check_going_on(state)

        return Call(run, steps * count)

    return prepare


def _eager(*, fused: bool) -> Callable[..., Call]:
    return lambda hidden, batch: Call(Eager(hidden, batch, data(), fused=fused))


COMPARISON = Comparison(
    name="ensemble",
    title="Training step of a small VAE, d = κ = 20, in the ensemble engine",
    axes="hidden, B",
    goals={(16, 1024): 25.0, (64, 1024): 12.0, (16, 100_000): 8.0},
    contenders={
        "eager": _eager(fused=False),
        "one model": engine(1, None),
        "side by side": engine(None, None),
        "one model, one thread": engine(1, 1),
        "full covariance": engine(1, None, "cholesky"),
        "eager, fused Adam": _eager(fused=True),
    },
    error=error,
    allowed=1e-5,
    bytes_moved=bytes_moved,
    operations=lambda hidden, batch: 2 * multiply_adds(hidden) * batch,
    ours=("one model", "side by side", "one model, one thread", "full covariance"),
    bound="product",
)
