"""The dimension of the manifold that samples lie on."""

import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import Tensor

from ..arguments import described
from ..data import Standardisation
from ..data.arrays import checked_samples, split
from ..data.checks import as_array
from ..errors import InputError
from ..metrics.local import LocalDimensions
from ..metrics.reading import Reading
from ..models import VAE
from ..storage import checkpoint
from ..storage.files import AnyPath, as_folder, as_json
from ..storage.owner import claim, taken
from .directions import Directions
from .plan import SearchPlan
from .search import train_trials
from .trials import Trial, by_latent_dim, doubts, trials_as_dict

__all__ = ["DimensionSearch", "find_dimension"]

HELD_OUT = 0.1  # of the samples


@dataclass(frozen=True, eq=False)  # a model is equal to itself alone
class DimensionSearch:
    """What :func:`find_dimension` finds.

    Attributes:
        trials: all models, in order of training.
        best: the one of lowest −ELBO on the samples held out; or, if wider networks were tried and nearest neighbours
            do not see fewer dimensions than the best of these clearly has, that one.
        reading: what the best of them, and the samples alone, say of the dimension.
        standardisation: from the units of x to those of the models, and back.
        directions: the principal directions that the models were trained on: ``count`` of them, the widest, along which
            ``share`` of the samples' variance lies.
    """

    trials: list[Trial]
    best: Trial
    reading: Reading
    standardisation: Standardisation
    directions: Directions

    def __repr__(self) -> str:
        losses = ", ".join(f"{kappa}: {loss:.4g}" for kappa, loss in self.by_latent_dim.items())
        neighbours = "None" if self.two_nn is None else f"{self.two_nn:.3g}"
        gap = "None" if self.gap is None else f"{self.gap:.3g}"
        return (
            f"DimensionSearch(dimension={self.dimension}, gap={gap}, by_latent_dim={{{losses}}}, "
            f"two_nn={neighbours}, {_counted(len(self.trials), 'trial')}, {_counted(len(self.doubts), 'doubt')})"
        )

    @property
    def dimension(self) -> int:
        """The count of ``local``; 0 if no model has learned any, which says nothing. (On a manifold with a chart
        ``best.active_dimensions`` is the same.)"""
        return self.local.count

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against the dimension, in sentences, each also a warning of :func:`find_dimension`. Having none
        is no proof: networks that did not follow a manifold where it bends can read it too high without any."""
        return *self.reading.doubts, *doubts(self.trials, self.best, self.reading.features)

    @property
    def local(self) -> LocalDimensions:
        """Those of the best, at some of its training samples: see :func:`manifold_core.local_dimensions`."""
        return self.reading.local

    @property
    def gap(self) -> float | None:
        """That of ``local``: below 8 the dimension is a guess."""
        return self.local.gap

    @property
    def two_nn(self) -> float | None:
        """The dimension by nearest neighbours: see :func:`manifold_core.two_nn`."""
        return self.reading.two_nn

    @property
    def error_ratio(self) -> float | None:
        """Median squared error of the best model on the held-out samples, over that on its training samples: from 4 on
        it has learned the samples more than the manifold. None if there is no error."""
        return self.reading.error_ratio

    @property
    def model(self) -> VAE:
        """The best one, in evaluation mode; it takes standardised samples."""
        return cast(VAE, self.best.trained.model)

    @property
    def by_latent_dim(self) -> dict[int, float]:
        """κ: its lowest held-out −ELBO, far higher below the manifold's dimension and level above it."""
        return by_latent_dim(self.trials)

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers and words, for JSON: all that is found but the models, which
        :func:`manifold_core.save_run` keeps. What a model that diverged has measured may be NaN."""
        return {
            "dimension": self.dimension,
            **self.reading.as_dict(),
            **trials_as_dict(self.trials, self.best),
            **self.directions.as_dict(),
            "doubts": list(self.doubts),
        }


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def find_dimension(
    x: Any,
    plan: SearchPlan | None = None,
    *,
    folder: AnyPath | None = None,
    progress: bool = True,
) -> DimensionSearch:
    """The dimension of the manifold that the samples lie on: trains VAEs with fewer and fewer latent dimensions, takes
    the one with the lowest −ELBO on held-out samples, without the tenth of them that it fits worst, and counts the
    directions in which its decoder moves: the eigenvalues of (I + JᵀJ/γ)⁻¹ before their widest gap, see
    :func:`manifold_core.local_dimensions`.

    With κ ≥ r the optimum of −ELBO is (d − r)/2 · log γ + O(1) as γ → 0, whatever κ, and with κ < r it is worse
    (Theorem 1, whose statement prints L where its proof has 2L). A network of too little capacity reads a curved
    manifold as the flat space around it, of more dimensions, at a higher −ELBO; with fewer latent dimensions it has to
    bend. So the search trains several networks with κ latent dimensions, then with fewer and fewer than the best has
    active, down to what nearest neighbours see (at least one fewer), and continues while fewer are better. Where
    nearest neighbours see fewer dimensions than the best model has, it does so again with wider networks, and takes the
    best of these if it has a clear gap and neighbours agree, whatever its −ELBO. All are trained on coordinates in the
    directions in which the samples vary, the widest of them, and one in which they do not:
    :class:`manifold_core.search.directions.Directions` says why. On a manifold that no one chart covers, such as a
    sphere or a closed curve, all dimensions of the flat space around it may be active; the decoder's eigenvalues see
    where it bends, unless the networks have not bent. What speaks against the dimension is warned about, and kept in
    ``doubts`` of the result.

    Args:
        x: ``[N, d]``, integer or floating: a tensor, on whose device the models are trained, or what np.asarray
            accepts. It is standardised; a tenth is held out.
        plan: what is trained; None as :class:`SearchPlan` has it.
        folder: of the checkpoints, from which the same call resumes. None keeps none.
        progress: show what is tried, and a bar, on standard error.

    Raises:
        InputError: bad input; a folder that holds another search, or a finished run of the command line, or that
            another process uses.
        Diverged: the loss of every model became NaN or infinite.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", Theorem 1; Facco et al. (2017) for
    the neighbours.
    """
    plan = plan if plan is not None else SearchPlan()
    if not isinstance(plan, SearchPlan):
        raise InputError(f"plan must be a SearchPlan, such as SearchPlan(models=4), got {described(plan)}")
    array = as_array(x)
    if array.ndim != 2:
        raise InputError(f"x must be of shape [N, d], got {array.shape}; x.reshape(len(x), -1) makes images vectors")
    data = split(checked_samples(array, "x"), "x", "x", HELD_OUT, plan.seed, standardise=True)
    train, held_out = (part.to(x.device if isinstance(x, Tensor) else "cpu") for part in (data.train, data.validation))
    place = None if folder is None else as_folder("folder", folder).absolute()
    with nullcontext() if place is None else taken(place):
        if place is not None:
            # Before hours are spent on looks of which a later one would meet checkpoints of another search.
            claim(place, {"plan": as_json(asdict(plan), "plan"), "x": checkpoint.fingerprint(train, held_out)})
        trials, best, directions = train_trials(train, held_out, plan, place, progress)
    reading = Reading.of(best.trained.model, (train,), (held_out,))
    found = DimensionSearch(trials, best, reading, data.standardisation, directions)
    for doubt in found.doubts:
        warnings.warn(doubt, stacklevel=2)
    return found
