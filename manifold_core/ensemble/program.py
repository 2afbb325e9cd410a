"""A model as the training engines read it: dense layers on the rows of a tile.

csrc/include/manifold_core/program.h says what the fields mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn

from ..models import CVAE, VAE
from ..networks.head import PosteriorHead
from .spec import MOST_LAYERS

__all__ = ["DENSE_FIELDS", "MODEL_FIELDS", "RECORDED", "Program", "words"]

RECORDED = 4  # numbers of a record before the variance ratios: nll, kl, squared error, log γ
ACTIVATIONS = {type(None): 0, nn.ReLU: 1, nn.PReLU: 2}
GAMMAS = {"learned": 0, "analytic": 1, "fixed": 2}
NONE = -1

# In the order of the structures of C++.
DENSE_FIELDS = (
    *("in", "inputs", "out", "outputs", "weight", "bias"),
    *("activation", "slope", "before", "wanted_from", "producer"),
)
MODEL_FIELDS = (
    *("data", "parameters", "exp_avg", "exp_avg_sq", "schedule", "records", "state"),
    *("samples", "features", "conditions", "parameter_count"),
    *("seed", "batch", "steps", "record_every", "gamma", "log_gamma"),
    *("rows", "x", "condition", "latents", "mu", "below", "prior", "gate", "noise", "z", "x_hat"),
    *("layer_count", "sampled_after"),
)


def words(numbers: dict[str, int], layers: list[dict[str, int]]) -> list[int]:
    """One row of the tensor that the engines are called with."""
    filled = [[layer[name] for name in DENSE_FIELDS] for layer in layers]
    filled += [[0] * len(DENSE_FIELDS)] * (MOST_LAYERS - len(layers))
    return [numbers[name] for name in MODEL_FIELDS] + [word for layer in filled for word in layer]


@dataclass(frozen=True)
class Program:
    """What an engine has to know about a model besides its data, its numbers and its training.

    Attributes:
        numbers: by the names of :data:`MODEL_FIELDS`; those that do not describe the network are missing.
        layers: by the names of :data:`DENSE_FIELDS`.
        places: where each parameter of the model begins in the flat vector of all, by its name.
    """

    numbers: dict[str, int]
    layers: list[dict[str, int]]
    places: dict[str, int]

    @property
    def parameter_count(self) -> int:
        """Length of that vector."""
        return self.numbers["parameter_count"]

    @classmethod
    def of(cls, model: VAE | CVAE) -> "Program":
        """The program of a VAE or CVAE that :meth:`manifold_core.VAE.mlp` or :meth:`manifold_core.CVAE.mlp` made."""
        return _Compiler(model).program()


class _Compiler:
    def __init__(self, model: VAE | CVAE) -> None:
        self.model = model
        self.rows = 0
        self.layers: list[dict[str, int]] = []
        self.places: dict[str, int] = {}
        self.parameter_count = 0
        for name, parameter in _in_order(model):
            self.places[name] = self.parameter_count
            self.parameter_count += parameter.numel()

    def program(self) -> Program:
        model, kappa = self.model, self.model.latent_dim
        conditional = isinstance(model, CVAE)
        features = self.width("decoder.layers")
        x = self.take(features)
        prior = gate = NONE
        condition = conditions = 0
        if conditional:
            h_encoder = self.take(self.width("encoder.condition"))  # beside x: together they are the encoder's input
            conditions = cast(nn.Linear, model.get_submodule("encoder.condition.0")).in_features
            condition = self.take(conditions)
            self.chain("encoder.condition", condition, conditions, out=h_encoder)
        full = model.elbo.covariance == "cholesky"
        mu = self.chain("encoder.layers", x, features, spare=2 * kappa if full else 0)
        if conditional and model.prior is not None:
            prior = self.chain("prior.layers", condition, conditions)
        if conditional and model.gate is not None:
            gate = self.chain("gate.layers", condition, conditions, spare=kappa)
        sampled_after = len(self.layers)
        noise = self.take(kappa)
        z = self.take(kappa)
        if conditional:
            h_decoder = self.take(self.width("decoder.condition"))  # beside z
            self.chain("decoder.condition", condition, conditions, out=h_decoder)
        x_hat = self.chain("decoder.layers", z, 0)
        numbers = {
            "features": features,
            "conditions": conditions,
            "parameter_count": self.parameter_count,
            "gamma": GAMMAS[model.elbo.gamma],
            "log_gamma": self.places.get("elbo.log_gamma", self.parameter_count),
            "rows": self.rows,
            "x": x,
            "condition": condition,
            "latents": kappa,
            "mu": mu,
            "below": mu + 2 * kappa if full else NONE,
            "prior": prior,
            "gate": gate,
            "noise": noise,
            "z": z,
            "x_hat": x_hat,
            "layer_count": len(self.layers),
            "sampled_after": sampled_after,
        }
        return Program(numbers, self.layers, self.places)

    def width(self, name: str) -> int:
        """The width of what the layers of this name give."""
        return _outputs(cast(nn.Sequential, self.model.get_submodule(name))[-1])

    def take(self, rows: int) -> int:
        """The first of this many new rows."""
        first = self.rows
        self.rows += rows
        return first

    def chain(self, name: str, first: int, wanted_from: int, *, out: int | None = None, spare: int = 0) -> int:
        """Adds the layers of this name, which read from row ``first`` on. Returns where the last one writes: to
        ``out``, or to new rows with ``spare`` more behind them."""
        layers = cast(nn.Sequential, self.model.get_submodule(name))
        last, producer = len(layers) - 1, NONE
        for at in range(0, len(layers), 2):  # linear layers, an activation behind each but the last
            linear = cast(nn.Linear, layers[at])
            activation = layers[at + 1] if at < last else None
            if at == last and out is not None:
                target = out
            else:
                target = self.take(_outputs(linear) + (spare if at == last else 0))
            prelu = isinstance(activation, nn.PReLU)
            self.layers.append(
                {
                    "in": first,
                    "inputs": linear.in_features,
                    "out": target,
                    "outputs": _outputs(linear),
                    "weight": self.places[f"{name}.{at}.weight"],
                    "bias": self.places[f"{name}.{at}.bias"],
                    "activation": ACTIVATIONS[type(activation)],
                    "slope": self.places[f"{name}.{at + 1}.weight"] if prelu else NONE,
                    "before": self.take(linear.out_features) if prelu else NONE,
                    "wanted_from": wanted_from,
                    "producer": producer,
                }
            )
            producer, first, wanted_from = len(self.layers) - 1, target, 0
        return first


def _in_order(model: VAE | CVAE) -> Iterator[tuple[str, nn.Parameter]]:
    """In the model's order, but the weights for L left of the diagonal directly behind those of the head that they are
    part of, as their biases are: then one layer makes all of it."""
    named = dict(model.named_parameters())
    while named:
        name = next(iter(named))
        yield name, named.pop(name)
        below = f"{name.removesuffix('weight')}below.weight"
        if below in named:
            yield below, named.pop(below)


def _outputs(layer: nn.Module) -> int:
    """The number of outputs of a layer; for the head of a full covariance, of all that it makes."""
    below = layer.below if isinstance(layer, PosteriorHead) else None
    more = 0 if below is None else cast(nn.Linear, below).out_features
    return cast(nn.Linear, layer).out_features + more
