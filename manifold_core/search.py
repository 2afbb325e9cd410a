"""The dimension of a data manifold, searched for: able networks, fewer and fewer latent dimensions, and the samples
held out decide."""

import math
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import checkpoint
from .data import Standardisation
from .data.arrays import checked_samples, split
from .data.checks import as_array
from .dimension import samples_at_a_time
from .directions import Directions
from .ensemble import ModelSpec, TrainedModel, all_diverged, train_ensemble
from .errors import InputError
from .evaluation import in_batches, metrics_of
from .files import as_json
from .finished import taken
from .local import CLEAR, LocalDimensions, of_some
from .models import CVAE, VAE
from .modes import evaluation_mode
from .neighbours import may_be_curved, two_nn
from .networks.checks import check_positive, check_widths
from .training import TrainingConfig, claim

__all__ = ["DimensionSearch", "SearchPlan", "Trial", "by_latent_dim", "find_dimension", "lowest", "search"]

FIRST = 32  # latent dimensions to begin with, where the data have as many features
HELD_OUT = 0.1  # of the samples
KEPT = 0.9  # of those, the share that judges a model
AT_A_TIME = 4  # numbers of latent dimensions between two looks at the result


@dataclass(frozen=True)
class SearchPlan:
    """What is trained for each number of latent dimensions.

    Args:
        latent_dim: κ to begin with, more than the manifold's dimensions; None begins with 32, or d if that is less, and
            doubles while all are active.
        networks: widths of the hidden layers of the MLPs that are tried: one layer learns flat manifolds to a
            smaller γ, several learn curved ones.
        models: of each network, of the seeds from ``seed`` on.
        log_gamma: where γ starts, for samples of scale 1: at 0 deep networks, and data that look alike in all
            directions, shut every latent dimension before they have learned one.
        steps, batch_size, learning_rate, seed: of each model's training, as of
            :class:`manifold_core.TrainingConfig`; ``seed`` also draws the samples that are held out.

    Raises:
        InputError: a size below one, no network, or a number out of range.
    """

    latent_dim: int | None = None
    networks: tuple[tuple[int, ...], ...] = ((64,), (64, 64, 64))
    models: int = 2
    log_gamma: float = -4.0
    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", check_positive(models=self.models)[0])
        if self.latent_dim is not None:
            object.__setattr__(self, "latent_dim", check_positive(latent_dim=self.latent_dim)[0])
        if not isinstance(self.networks, Sequence) or not self.networks:
            raise InputError(f"networks must be a sequence of widths, such as ((64,), (64, 64)), got {self.networks!r}")
        object.__setattr__(self, "networks", tuple(check_widths(widths, "networks") for widths in self.networks))
        spec = self.specs([1])[0]  # refuses what a specification refuses, and has Python's numbers of NumPy's
        object.__setattr__(self, "log_gamma", spec.log_gamma)
        for name in ("steps", "batch_size", "learning_rate", "seed"):
            object.__setattr__(self, name, getattr(spec.training, name))

    @property
    def training(self) -> TrainingConfig:
        """Of the first model of each network."""
        return TrainingConfig(self.steps, self.batch_size, self.learning_rate, seed=self.seed)

    def specs(self, kappas: Sequence[int]) -> list[ModelSpec]:
        """All models of these numbers of latent dimensions."""
        training = self.training
        return [
            ModelSpec(kappa, hidden, log_gamma=self.log_gamma, training=replace(training, seed=self.seed + index))
            for kappa in kappas
            for hidden in self.networks
            for index in range(self.models)
        ]


@dataclass(frozen=True)
class Trial:
    """One model of a search.

    Attributes:
        trained: the model, its specification, metrics over the training samples and curves.
        held_out: −ELBO of the samples that it was not trained on, without the tenth for which it is highest; nats per
            sample, of the coordinates of :class:`manifold_core.directions.Directions`.
    """

    trained: TrainedModel
    held_out: float

    @property
    def spec(self) -> ModelSpec:
        """What was trained."""
        return cast(ModelSpec, self.trained.spec)

    @property
    def latent_dim(self) -> int:
        """κ."""
        return self.spec.latent_dim

    @property
    def active_dimensions(self) -> int:
        """0 where it diverged."""
        return self.trained.metrics.active_dimensions or 0


@dataclass(frozen=True)
class DimensionSearch:
    """What :func:`find_dimension` finds.

    Attributes:
        trials: all models, in the order they were trained.
        local: of the best, at some of the samples that it was trained on, as of :func:`manifold_core.local_dimensions`.
        two_nn: the dimension by nearest neighbours, as of :func:`manifold_core.two_nn`.
        standardisation: from the units of x to those of the models, and back.
    """

    trials: list[Trial]
    local: LocalDimensions
    two_nn: float | None
    standardisation: Standardisation

    def __repr__(self) -> str:
        losses = ", ".join(f"{kappa}: {loss:.4g}" for kappa, loss in self.by_latent_dim.items())
        neighbours = "None" if self.two_nn is None else f"{self.two_nn:.3g}"
        gap = "None" if self.gap is None else f"{self.gap:.3g}"
        return (
            f"DimensionSearch(dimension={self.dimension}, gap={gap}, by_latent_dim={{{losses}}}, "
            f"two_nn={neighbours}, {len(self.trials)} trials)"
        )

    @property
    def best(self) -> Trial:
        """The one of lowest −ELBO on the samples held out."""
        return lowest(self.trials)

    @property
    def dimension(self) -> int:
        """That of ``local``; 0 where no model has learned any, which says nothing. (``best.active_dimensions``:
        as many on a manifold that has a chart.)"""
        return self.local.count

    @property
    def gap(self) -> float | None:
        """That of ``local``: below 8 the dimension is a guess, of which :func:`find_dimension` warns."""
        return self.local.gap

    @property
    def model(self) -> VAE:
        """The best one, in evaluation mode; it takes standardised samples."""
        return cast(VAE, self.best.trained.model)

    @property
    def by_latent_dim(self) -> dict[int, float]:
        """κ: the lowest held-out −ELBO with it. Below the manifold's dimension it is far higher, above it level."""
        return by_latent_dim(self.trials)


def find_dimension(
    x: Any,
    plan: SearchPlan | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = True,
) -> DimensionSearch:
    """r of the VAE with the lowest −ELBO on samples that none was trained on, without the tenth of them that it fits
    worst: the widest gap in the eigenvalues of its decoder's (I + JᵀJ/γ)⁻¹, as :func:`manifold_core.local_dimensions`
    has it.

    With κ ≥ r the optimum of −ELBO is (d − r)/2 · log γ + O(1) as γ → 0, whatever κ, and with κ < r it is worse
    (Theorem 1, whose statement prints L where its proof has 2L). A network that is not able enough reads a curved
    manifold as the flat space around it, of more dimensions, at a higher −ELBO; with fewer latent dimensions it has to
    bend. So this trains several networks with κ latent dimensions, then with ever fewer than the best has active, down
    to what nearest neighbours see, at least one fewer, and keeps on while fewer are better. They are trained on
    coordinates in the directions in which the samples vary, and one in which they do not:
    :class:`manifold_core.directions.Directions` says why. A manifold that no one chart covers, such as a sphere or a
    closed curve, may have all dimensions of the flat space that holds it active, and the eigenvalues of the decoder see
    where it bends; networks that have not bent read the flat space, and it warns where nearest neighbours see far fewer
    dimensions.

    Args:
        x: ``[N, d]`` of an integer or floating type, a tensor, on whose device the models are trained, or what
            np.asarray makes an array of. It is standardised; a tenth is held out.
        plan: what is trained; None as :class:`SearchPlan` has it.
        folder: of the checkpoints: the same call goes on there where it was stopped. None keeps none.
        progress: show what is tried, and a bar, on standard error.

    Raises:
        InputError: bad input; a folder that holds another search, or a finished run of the command line, or in which
            another process is at work.
        Diverged: the loss of every model became NaN or infinite.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Theorem 1; Facco et al. (2017) for
    the neighbours.
    """
    plan = plan if plan is not None else SearchPlan()
    if not isinstance(plan, SearchPlan):
        raise InputError(f"plan must be a SearchPlan, such as SearchPlan(models=4), got {plan!r}")
    array = as_array(x)
    if array.ndim != 2:
        raise InputError(f"x must be of shape [N, d], got {array.shape}; x.reshape(len(x), -1) makes images vectors")
    data = split(checked_samples(array, "x"), "x", "x", HELD_OUT, plan.seed, standardise=True)
    train, held_out = (part.to(x.device if isinstance(x, Tensor) else "cpu") for part in (data.train, data.validation))
    place = None if folder is None else Path(folder)
    with nullcontext() if place is None else taken(place):
        if place is not None:
            # Before hours are spent on looks of which a later one would meet checkpoints of another search.
            claim(place, {"plan": as_json(asdict(plan), "plan"), "x": checkpoint.fingerprint(train, held_out)})
        trials = search(train, held_out, plan, place, progress)
    local = of_some(lowest(trials).trained.model, (train,))
    found = DimensionSearch(trials, local, two_nn(train), data.standardisation)
    if found.dimension == 0:
        warnings.warn(
            f"the best model has learned no dimension of the {len(train)} samples trained on: the 0 says nothing; "
            f"train longer, SearchPlan(steps={2 * plan.steps}), or on more samples",
            stacklevel=2,
        )
    elif found.best.active_dimensions == max(found.by_latent_dim) < train.shape[1]:
        warnings.warn(
            f"all {found.best.active_dimensions} latent dimensions of the best model are active, and none had more: "
            f"the manifold may have more; give SearchPlan(latent_dim=…) more than you expect, or leave it out",
            stacklevel=2,
        )
    if found.gap is not None and found.gap < CLEAR:
        warnings.warn(
            f"the eigenvalues of the best model's decoder have no clear gap, {found.gap:.2g} at the widest: the "
            f"{found.dimension} dimensions are a guess; train longer, or on more samples",
            stacklevel=2,
        )
    if may_be_curved(found.dimension, found.two_nn):
        warnings.warn(
            f"the best model reads {found.dimension} dimensions, and nearest neighbours see {found.two_nn:.1f} "
            "(TwoNN): if the manifold is curved or closed, as a sphere is, it has fewer than the model; of a high "
            "dimension neighbours see too little",
            stacklevel=2,
        )
    return found


def search(x: Tensor, held_out: Tensor, plan: SearchPlan, folder: Path | None, progress: bool) -> list[Trial]:
    """The trials of :func:`find_dimension`, of standardised samples ``[N, d]``; checkpoints go into folders in
    ``folder``, one for each look at the result."""
    directions = Directions.of_samples(x) if folder is None else Directions.kept_in(folder, x)
    y, others = directions.of(x), directions.of(held_out)
    trials: list[Trial] = []
    while kappas := _next(trials, x, plan):
        if progress:
            print(f"latent dimensions: {', '.join(map(str, kappas))}", file=sys.stderr)
        place = folder / f"{kappas[0]}-{kappas[-1]}" if folder is not None else None
        trained = train_ensemble(plan.specs(kappas), y, folder=place, progress=progress)
        trials += [Trial(_of_samples(one, directions, x), _held_out(one.model, others)) for one in trained]
    return trials


def _of_samples(one: TrainedModel, directions: Directions, x: Tensor) -> TrainedModel:
    model = directions.lifted(cast(VAE, one.model), cast(ModelSpec, one.spec))
    return replace(one, model=model, metrics=metrics_of(model, (x,)), history=directions.history(one.history))


@torch.no_grad()
def _held_out(model: VAE | CVAE, y: Tensor) -> float:
    """A chart of a closed manifold has a cut, and a decoder some samples that it has not learned to reach: at a small γ
    a few of them would outweigh all others."""
    with evaluation_mode(model):
        batches = in_batches(model, (y,), seed=0, batch_size=samples_at_a_time(model, (y,), None))
        losses = torch.cat([(terms.nll + terms.kl).double() for terms in batches]).sort().values  # NaN comes last
    return float(losses[: math.ceil(KEPT * len(losses))].mean())


def _next(trials: Sequence[Trial], x: Tensor, plan: SearchPlan) -> list[int]:
    """Numbers of latent dimensions that are to be tried; none where the search is over."""
    features = x.shape[1]
    if not trials:
        return [plan.latent_dim or min(features, FIRST)]
    best, tried = lowest(trials), {trial.latent_dim for trial in trials}
    if best.active_dimensions == max(tried) < features and plan.latent_dim is None:
        return [min(2 * max(tried), features)]
    # Data that look alike in all directions may have none active of too many.
    most = best.active_dimensions or best.latent_dim
    if below := [kappa for kappa in tried if kappa < most]:
        return _spread(range(max(below) + 1, most))
    low = max(round(two_nn(x) or 1), 1)
    if best.active_dimensions:  # neighbours see too few dimensions where these are many, and noise as dimensions
        low = max(min(low, most - 1), 1)
    return _spread(range(low, most))


def _spread(choices: range) -> list[int]:
    """At most four of them, evenly spaced, the last among them."""
    n = len(choices)
    if n <= AT_A_TIME:
        return list(choices)
    return [choices[round(index * (n - 1) / (AT_A_TIME - 1))] for index in range(AT_A_TIME)]


def lowest(trials: Sequence[Trial]) -> Trial:
    """The trial of lowest held-out −ELBO.

    Raises:
        Diverged: there is none, as the loss of each was not finite.
    """
    if not (ended := _ended(trials)):
        raise all_diverged([trial.trained for trial in trials])
    return min(ended, key=lambda trial: trial.held_out)


def _ended(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.trained.diverged_at is None and math.isfinite(trial.held_out)]


def by_latent_dim(trials: Sequence[Trial]) -> dict[int, float]:
    """The lowest held-out −ELBO of each number of latent dimensions, ascending, of models that have not diverged."""
    found: dict[int, float] = {}
    for trial in sorted(_ended(trials), key=lambda trial: trial.latent_dim):
        found[trial.latent_dim] = min(trial.held_out, found.get(trial.latent_dim, math.inf))
    return found
