"""The dimension of the manifold that samples lie on."""

import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..data import Standardisation
from ..data.arrays import checked_samples, split
from ..data.checks import as_array
from ..errors import InputError
from ..metrics.local import CLEAR, LocalDimensions, of_some
from ..metrics.neighbours import may_be_curved, two_nn
from ..models import VAE
from ..storage import checkpoint
from ..storage.files import as_json
from ..storage.finished import taken
from ..training import claim
from .plan import SearchPlan
from .search import search
from .trials import Trial, by_latent_dim, lowest

__all__ = ["DimensionSearch", "find_dimension"]

HELD_OUT = 0.1  # of the samples


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
    :class:`manifold_core.search.directions.Directions` says why. A manifold that no one chart covers, such as a sphere
    or a closed curve, may have all dimensions of the flat space that holds it active, and the eigenvalues of the
    decoder see where it bends; networks that have not bent read the flat space, and it warns where nearest neighbours
    see far fewer dimensions.

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
