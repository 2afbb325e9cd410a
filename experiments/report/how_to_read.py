"""How to read the tables, in plain sentences."""

import math
from collections.abc import Iterable, Sequence

from ..tables import BUDGETS, on_test_images
from .results import Result
from .summary import Row, by_eigenvalue, measured_by_decoder, rows
from .text import enumeration

__all__ = ["on_images", "reading"]

READING = (
    "Beside each of the paper’s numbers stands ours: the median over the seeds, with the lowest and the highest. "
    "Our active dimensions are those of the run of lowest −ELBO; “right” counts the runs whose active dimensions equal "
    "the true ones. A diverged run counts as wrong there and is left out of medians and spreads. A dimension is active "
    "below a variance of 0.05, in a conditional model relative to its prior’s. Data are drawn anew, and networks may "
    "be wider than the paper’s: a lower −ELBO says nothing for or against the paper."
)
READING_TRIED = (
    "manifold_core/experiments/recipe.py says how the models are trained, and, with figures, what else was tried where "
    "they fall short of the paper or of the theorems; the project’s docs/paper.md says what the tables show."
)
READING_EIGENVALUES = (
    "With full covariance the active directions need not lie along the axes: “by eigenvalue” counts the eigenvalues of "
    "the posterior’s covariance, relative to the prior’s, below 0.05, which no rotation of the latent space changes."
)
READING_BY_DECODER = (
    "“By the decoder” is the dimension read off the decoder’s derivative J, mc.local_dimensions: the number of "
    "eigenvalues of (I + S JᵀJ S/γ)⁻¹, in order and averaged over some of the samples, before the widest gap, with the "
    "prior’s standard deviations as S; none if not even the smallest is below 0.05. If two thirds of the samples "
    "agree on another number, and the mean over them has no clear gap there, it is theirs, except in files of commits "
    "before 30 November 2026. For a model of sequences it is that of the last step."
)
READING_CLASS_MEANS = "If the classes of the data are measured, ours is the mean over them, like the paper’s."
READING_TEST_IMAGES = (
    "Models of images are measured on the training images and on test images. The paper does not say on which it "
    "measured; its numbers stand beside the test images."
)

_WHOLE, _QUICK = (BUDGETS[name].as_published() for name in ("full", "quick"))
_WHOLE_BY = [
    name
    for name, plan in BUDGETS.items()
    if (plan.as_published().steps, plan.as_published().samples) == (_WHOLE.steps, _WHOLE.samples)
]
READING_PUBLISHED = (
    "“As published” are models that we trained as well, but with the widths, batches and schedules of the paper’s "
    f"published code. MLPs have its {_WHOLE.steps:,} steps on {_WHOLE.samples:,} samples with the budgets "
    f"{enumeration(_WHOLE_BY)}; with quick they have {_QUICK.steps:,} on {_QUICK.samples:,}, and may end before they "
    "are trained. Their numbers are read like ours; counts are of ours alone, unless they say otherwise."
)


def reading(results: Sequence[Result]) -> list[str]:
    """How to read the tables; what concerns only some tables is said if these are there."""
    listed = [row for result in results for row in rows(result)]
    found = [READING, READING_TRIED]
    if by_eigenvalue(own for row in listed for own in (row, row.published)):
        found.append(READING_EIGENVALUES)
    if measured_by_decoder(listed):
        found.append(READING_BY_DECODER)
    if any(math.isfinite(own.class_mean) for row in listed for own in (row, row.published)):
        found.append(READING_CLASS_MEANS)
    if on_images([*listed, *(row.published for row in listed)]):
        found.append(READING_TEST_IMAGES)
    if any(result.published is not None for result in results):
        found.append(READING_PUBLISHED)
    return found


def on_images(listed: Iterable[Row]) -> bool:
    """Are there rows of models of images, which have two each?"""
    return any(row.runs and row.variant.endswith(on_test_images("")) for row in listed)
