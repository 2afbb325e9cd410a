"""The dimension of the manifold that samples lie on."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..data import Standardisation
from ..data.arrays import checked_samples, split
from ..data.checks import as_array
from ..errors import InputError
from ..metrics.local import CLEAR, MOST, LocalDimensions, in_words, of_some
from ..metrics.neighbours import may_be_curved, may_have_more, two_nn
from ..metrics.overfit import OVERFITTED, error_ratio
from ..models import VAE
from ..storage import checkpoint
from ..storage.files import as_folder, as_json
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
        error_ratio: median squared error of the best model on the samples held out, over that on those it was trained
            on: from 4 on it has learned the samples more than the manifold. None where there is no error.
        standardisation: from the units of x to those of the models, and back.
    """

    trials: list[Trial]
    local: LocalDimensions
    two_nn: float | None
    error_ratio: float | None
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
        """That of ``local``: below 8 the dimension is a guess, of which :func:`find_dimension` warns, as of all else
        that speaks against it."""
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
    worst: the widest gap in the eigenvalues of its decoder's (I + JᵀJ/γ)⁻¹ at most of the samples, as
    :func:`manifold_core.local_dimensions` has it.

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
    place = None if folder is None else as_folder("folder", folder)
    with nullcontext() if place is None else taken(place):
        if place is not None:
            # Before hours are spent on looks of which a later one would meet checkpoints of another search.
            claim(place, {"plan": as_json(asdict(plan), "plan"), "x": checkpoint.fingerprint(train, held_out)})
        trials = search(train, held_out, plan, place, progress)
    model = lowest(trials).trained.model
    ratio = error_ratio(model, (train,), (held_out,))
    found = DimensionSearch(trials, of_some(model, (train,)), two_nn(train), ratio, data.standardisation)
    for doubt in _doubts(found, train):
        warnings.warn(doubt, stacklevel=2)
    return found


def _doubts(found: DimensionSearch, train: Tensor) -> Iterator[str]:
    """What speaks against the dimension."""
    dimension, local, neighbours = found.dimension, found.local, found.two_nn
    steps = found.best.spec.training.steps
    if found.error_ratio is not None and found.error_ratio >= OVERFITTED:
        yield (
            f"the best model fits the {len(train)} samples trained on {found.error_ratio:.0f} times as well as those "
            "held out: it has learned them more than the manifold; take more samples, or fewer steps, "
            f"SearchPlan(steps={steps // 2})"
        )
    if dimension == 0:
        yield (
            f"the best model has learned no dimension of the {len(train)} samples trained on: the 0 says nothing; "
            f"train longer, SearchPlan(steps={2 * steps}), or on more samples"
        )
    elif found.best.active_dimensions == max(found.by_latent_dim) < train.shape[1]:
        yield (
            f"all {found.best.active_dimensions} latent dimensions of the best model are active, and none had more: "
            "the manifold may have more; give SearchPlan(latent_dim=…) more than you expect, or leave it out"
        )
    if local.gap is not None and local.gap < CLEAR:
        yield (
            f"the eigenvalues of the best model's decoder have no clear gap, {local.gap:.2g} behind the {dimension} "
            "dimensions that are read, which are a guess; train longer, or on more samples"
        )
    elif local.share < MOST:
        yield (
            f"samples have unlike dimensions, {in_words(local.shares)} of them: a manifold of several pieces, or one "
            "that is not learned yet; train longer, or on more samples"
        )
    if may_be_curved(dimension, neighbours):
        yield (
            f"the best model reads {dimension} dimensions, and nearest neighbours see {neighbours:.1f} (TwoNN): if the "
            "manifold is curved or closed, as a sphere is, it has fewer than the model; of a high dimension neighbours "
            "see too little"
        )
    elif dimension and may_have_more(dimension, neighbours):
        yield (
            f"the best model reads {dimension} dimensions, and nearest neighbours see {neighbours:.1f} (TwoNN): they "
            "see noise as well, but without noise the manifold may have more; train longer, or on more samples"
        )
