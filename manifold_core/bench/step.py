"""The training step of a common VAE: an MLP 784-400-20-400-784 on vectors like MNIST's, Adam, learned γ.

The same networks, weights, batch and optimizer (PyTorch's fused Adam) for all; only the loss is made differently.

eager            by hand
full covariance  ours, with an encoder that differs only at its end
torch.compile    of eager: networks and loss
pyro             differentiable_loss of its TraceMeanField_ELBO, checks of arguments off
pythae           its VAE, whose γ is fixed at 1 and which therefore does a little less

Liger-Kernel is not among them: its KL is that of categorical distributions, and it runs on a GPU alone.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..covariance import Covariance
from ..kernels.random import standard_normal
from ..models import VAE
from .by_hand import negative_elbo
from .comparison import Call, Comparison, largest, largest_difference

__all__ = ["COMPARISON", "LOSSES", "Loss", "adam_step", "training_step"]

FEATURES, HIDDEN, LATENTS = 784, 400, 20
LEARNING_RATE = 1e-3
CONSTANT = 0.5 * FEATURES * math.log(2 * math.pi)  # of the NLL, which pythae leaves out


class Loss(NamedTuple):
    """Somebody's way from a batch to the negative ELBO."""

    of: Callable[[Tensor], Tensor]
    parameters: list[nn.Parameter]
    left_out: float = 0.0  # constants


def model(covariance: Covariance = "diagonal") -> VAE:
    """The same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VAE.mlp(FEATURES, LATENTS, (HIDDEN,), covariance=covariance)


def batch(size: int) -> Tensor:
    return torch.rand(size, FEATURES, generator=torch.Generator().manual_seed(1))


def _eager(vae: VAE) -> Loss:
    return Loss(lambda x: negative_elbo(vae, x), [*vae.parameters()])


def _compiled(vae: VAE) -> Loss:
    return Loss(torch.compile(_eager(vae).of, dynamic=False), [*vae.parameters()])


def _ours(vae: VAE) -> Loss:
    return Loss(lambda x: vae(x).loss, [*vae.parameters()])


def _pyro(vae: VAE) -> Loss:
    import pyro
    from pyro.distributions import Normal
    from pyro.infer import TraceMeanField_ELBO

    pyro.enable_validation(False)
    nothing = torch.zeros(LATENTS, device=vae.elbo.log_gamma.device)

    def prior_and_likelihood(x: Tensor) -> None:
        pyro.module("decoder", vae.decoder)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", Normal(nothing, nothing.exp()).to_event(1))
            pyro.sample("x", Normal(vae.decoder(z), torch.exp(0.5 * vae.elbo.log_gamma)).to_event(1), obs=x)

    def posterior(x: Tensor) -> None:
        pyro.module("encoder", vae.encoder)
        with pyro.plate("batch", len(x)):
            mu, log_var = vae.encoder(x)
            pyro.sample("z", Normal(mu, torch.exp(0.5 * log_var)).to_event(1))

    elbo = TraceMeanField_ELBO()
    return Loss(lambda x: elbo.differentiable_loss(prior_and_likelihood, posterior, x) / len(x), [*vae.parameters()])


def _pythae(vae: VAE) -> Loss:
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vae.encoder

        def forward(self, x: Tensor) -> Any:
            mu, log_var = self.inner(x)
            return ModelOutput(embedding=mu, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vae.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.inner(z))

    config = VAEConfig(input_dim=(FEATURES,), latent_dim=LATENTS, reconstruction_loss="mse")
    theirs = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    theirs.to(vae.elbo.log_gamma.device)
    return Loss(lambda x: theirs({"data": x}).loss, [*theirs.parameters()], left_out=CONSTANT)


LOSSES: dict[str, Callable[[VAE], Loss]] = {
    "eager": _eager,
    "manifold_core": _ours,
    "torch.compile": _compiled,
    "pyro": _pyro,
    "pythae": _pythae,
}


def training_step(
    make: Callable[[VAE], Loss], size: int, device: str = "cpu", covariance: Covariance = "diagonal"
) -> Callable[[], None]:
    """Forward, backward and Adam on a batch."""
    loss, x = make(model(covariance).to(device)), batch(size).to(device)
    return adam_step(loss.parameters, lambda: loss.of(x))


def adam_step(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> Callable[[], None]:
    """The step that all contenders make, with PyTorch's fused Adam."""
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def _contender(make: Callable[[VAE], Loss]) -> Callable[..., Call]:
    return lambda size: Call(training_step(make, size))


def _gradients(vae: VAE, loss: Tensor) -> Iterator[Tensor]:
    yield from torch.autograd.grad(loss, [*vae.parameters()])


def error(size: int) -> float:
    """The error of the gradients of all weights, with either covariance, against the loss by hand in float64 on the
    same noise."""
    return largest(_error(size, covariance) for covariance in get_args(Covariance))


def _error(size: int, covariance: Covariance) -> float:
    ours, x = model(covariance), batch(size)
    exact = copy.deepcopy(ours).double()
    noise = standard_normal(torch.tensor(7), size, LATENTS)
    wanted = _gradients(exact, negative_elbo(exact, x.double(), noise=noise))
    return largest_difference(_gradients(ours, ours(x, seed=7).loss), wanted)


def weights() -> int:
    return HIDDEN * (FEATURES + 2 * LATENTS + LATENTS + FEATURES)


def operations(size: int) -> int:
    """The operations of the layers: three products each, without the gradient of x."""
    return 2 * size * (3 * weights() - FEATURES * HIDDEN)


def bytes_moved(size: int) -> int:
    """The batch, and for each weight its gradient, itself and two moments, read and written; float32."""
    return 4 * (size * FEATURES + 8 * weights())


COMPARISON = Comparison(
    name="step",
    title="Training step of an MLP VAE, 784-400-20, with Adam",
    axes="B",
    goals={(128,): math.nan, (512,): math.nan},
    contenders={name: _contender(make) for name, make in LOSSES.items()}
    | {"full covariance": lambda size: Call(training_step(_ours, size, covariance="cholesky"))},
    error=error,
    allowed=1e-5,
    bytes_moved=bytes_moved,
    operations=operations,
    ours=("manifold_core", "full covariance"),
    bound="product",
)
