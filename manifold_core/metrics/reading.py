"""The dimension read off a trained model, with all that speaks for it and against it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.directions import count_directions
from ..models import CVAE, VAE
from .local import CLEAR, MOST, LocalDimensions, in_words, local_dimensions_of_some
from .neighbours import two_nn, two_nn_of_cube
from .overfit import OVERFITTED, error_ratio
from .residual import SAMPLES, directions_of_noise, residual_directions
from .subset import some_of

__all__ = ["Reading", "neighbours_see_fewer"]

# Dimensions by nearest neighbours in a cube of as many dimensions as are read, over those in the data, and the
# reverse. Among 54 manifolds (benchmarks/estimators.py) and 62 sets like those of practice, those read right have up to
# 1.16, but for one with 1.37; of those read wrong five have 1.29 to 2.41.
CURVED = 1.2
MORE = 1.25
# Directions of the residual, and as a share of those that noise has in all directions that the manifold has not. Five
# of the 62, in which a direction was missed, have 1.4 to 2.0, those read right 3.8 and more; noise a third and more.
MISSED, LIKE_NOISE = 2.5, 1 / 3
BESIDE_MISSED = 1.1  # as MORE, if the residual lies along so few directions


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class Reading:
    """What a trained model, and the samples by themselves, say of the dimension.

    Attributes:
        local: of some of the samples trained on, see :func:`manifold_core.local_dimensions`.
        two_nn: of the samples trained on, see :func:`manifold_core.two_nn`.
        two_nn_of_cube: the same of as many samples of a cube of the dimension that is read; None under a condition,
            which leaves the samples fewer dimensions than neighbours see.
        error_ratio: median squared error of the samples held out, over that of those trained on.
        residual_directions: along how many directions x − x̂ lies.
        directions: in which the samples vary, of the d; None under a condition.
        features: d.
        samples: trained on.
        conditional: whether there is a condition, which may leave some samples fewer dimensions, or none.
    """

    local: LocalDimensions
    two_nn: float | None
    two_nn_of_cube: float | None
    error_ratio: float | None
    residual_directions: float | None
    directions: int | None
    features: int
    samples: int
    conditional: bool

    @classmethod
    def of(cls, model: VAE | CVAE, inputs: tuple[Tensor, ...], held_out: tuple[Tensor, ...]) -> "Reading":
        """For a model with the samples trained on and those held out, as :func:`check_inputs` gives them."""
        local, (x, *condition) = local_dimensions_of_some(model, inputs), inputs
        compared = local.count > 0 and not condition
        return cls(
            local,
            two_nn(x),
            two_nn_of_cube(local.count, len(x)) if compared else None,
            error_ratio(model, inputs, held_out),
            residual_directions(model, inputs),
            _directions(x) if compared else None,
            x[0].numel(),
            len(x),
            bool(condition),
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against the dimension, in sentences; empty if nothing does."""
        return tuple(self._doubts())

    @property
    def noise(self) -> str:
        """Why nearest neighbours see more dimensions than the model, if that is not a doubt."""
        if not self._neighbours_see_more(MORE) or not self._residual_is_like_noise:
            return ""
        return (
            f"nearest neighbours (TwoNN) see {self.two_nn:.1f} dimensions, since they count noise: the model's "
            "residuals are about alike in all directions"
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers and words, for JSON."""
        return {
            "local": self.local.as_dict(),
            "doubts": list(self.doubts),
            "noise": self.noise,
            "two_nn": self.two_nn,
            "two_nn_of_cube": self.two_nn_of_cube,
            "error_ratio": self.error_ratio,
            "residual_directions": self.residual_directions,
            "directions": self.directions,
        }

    def _doubts(self) -> Iterator[str]:
        local, count = self.local, self.local.count
        if self.error_ratio is not None and self.error_ratio >= OVERFITTED:
            yield (
                f"the model fits its {self.samples} training samples {self.error_ratio:.0f} times as well as those "
                "held out: it has learned these samples more than the manifold; take more samples, or fewer steps"
            )
        if count == 0 and not self.conditional:
            yield (
                f"the model has learned no dimension from its {self.samples} training samples: the 0 means nothing; "
                "take more steps, or more samples"
            )
            return
        if count == 0 and local.share >= MOST:
            yield (
                "either the condition leaves the samples no dimension, or the model has learned none from its "
                f"{self.samples} training samples: take more steps, or more samples, to tell"
            )
            return
        if local.gap is not None and local.gap < CLEAR:
            yield (
                f"dimension {count} is a guess: the gap in the decoder's eigenvalues is {local.gap:.2g}, and clear "
                f"only from {CLEAR:g} on; take more steps, or more samples"
            )
        elif local.share < MOST:
            decides = "the condition decides it, " if self.conditional else ""
            yield (
                f"samples differ in dimension, {in_words(local.shares)} of them: {decides}the manifold has several "
                "pieces, or is not learned yet; take more steps, or more samples"
            )
        if neighbours_see_fewer(local.count, self.two_nn, self.two_nn_of_cube):
            yield (
                f"nearest neighbours (TwoNN) see {self.two_nn:.1f} dimensions, but would see {self.two_nn_of_cube:.1f} "
                f"in a flat space of {count} dimensions: if the manifold is curved or closed, like a sphere, it has "
                f"fewer than {count}; wider networks, or more steps, may read them"
            )
        elif self._fills_its_space:
            yield (
                f"the samples vary in {count} directions, no more than the dimension: they fill a flat space, or lie "
                f"on a surface of {count - 1} dimensions in it, such as a sphere, that networks have not followed; "
                "with so many dimensions nearest neighbours cannot tell the two apart"
            )
        elif self._has_missed_a_direction:
            yield (
                f"nearest neighbours (TwoNN) see {self.two_nn:.1f} dimensions, and the model's residuals lie along few "
                f"directions: the manifold may have more than {count}; take more steps, or more samples"
            )

    @property
    def _fills_its_space(self) -> bool:
        """Or seems to, by so many dimensions that neighbours hardly see one fewer."""
        return self.local.count == self.directions and self.local.count <= CURVED * (self.local.count - 1)

    def _neighbours_see_more(self, times: float) -> bool:
        if self.two_nn is None or self.two_nn_of_cube is None:
            return False
        return self.two_nn >= times * self.two_nn_of_cube

    @property
    def _has_missed_a_direction(self) -> bool:
        """If one direction is far narrower than the others, models read it last. Noise is not such a direction."""
        few = self.residual_directions is not None and self.residual_directions < MISSED
        return self._neighbours_see_more(BESIDE_MISSED if few else MORE) and not self._residual_is_like_noise

    @property
    def _residual_is_like_noise(self) -> bool:
        noise = directions_of_noise(self.features - self.local.count, self.samples)
        directions = self.residual_directions
        return directions is not None and directions >= max(MISSED, LIKE_NOISE * noise)


def neighbours_see_fewer(count: int, two_nn: float | None, two_nn_of_cube: float | None) -> bool:
    """Networks that are not able enough read a curved manifold as the flat space around it, with a wide gap. But a
    curve has one dimension, whatever neighbours see of samples that are not drawn evenly."""
    if two_nn is None or two_nn_of_cube is None or count == 1:
        return False
    return two_nn_of_cube >= CURVED * two_nn


def _directions(x: Tensor) -> int:
    (some,) = some_of((x.flatten(1),), SAMPLES)
    return count_directions(some)
