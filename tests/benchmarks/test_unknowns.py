"""The dimension of simulated measurements and recordings is the rank of the derivative by what is drawn."""

from typing import Any

import numpy as np
import pytest

from benchmarks.manifolds import Array, Samples
from benchmarks.recordings import RECORDED
from benchmarks.simulated import SIMULATED

ROWS = 23  # no draw of another kind has this length


class Moved(np.random.Generator):
    """The draws of a seed, one of the unknowns of each sample moved by so many of its standard deviations, no noise."""

    def __init__(self, unknown: int = 0, by: float = 0.0) -> None:
        super().__init__(np.random.PCG64(7))
        self.unknown, self.by, self.seen = unknown, by, 0

    def _moved(self, drawn: Array, deviation: float) -> Array:
        if ROWS not in drawn.shape:  # the same for all samples
            return drawn
        if drawn.size > 10 * ROWS:
            return np.zeros_like(drawn)  # noise
        unknowns = np.moveaxis(drawn.copy(), drawn.shape.index(ROWS), -1)
        for index in np.ndindex(unknowns.shape[:-1]):
            unknowns[index] += self.by * deviation * (self.seen == self.unknown)
            self.seen += 1
        return np.moveaxis(unknowns, -1, drawn.shape.index(ROWS))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        drawn = super().uniform(low, high, size)
        return drawn if size is None else self._moved(drawn, (high - low) / 12**0.5)

    def random(self, size: Any = None) -> Any:  # type: ignore[override]
        return self.uniform(size=size)

    def normal(self, size: Any = None) -> Any:  # type: ignore[override]
        return self._moved(super().normal(size=size), 1.0)


@pytest.mark.parametrize("one", SIMULATED + RECORDED, ids=lambda one: one.name)
def test_the_dimension_is_the_rank_of_the_derivative(one: Samples) -> None:
    """By central differences, at every sample; r is also the number of unknowns, so that the rank is no more."""
    drawn = Moved()
    one.samples(drawn, ROWS)
    assert drawn.seen == one.r
    step = 1e-5
    columns = [(one.samples(Moved(i, step), ROWS) - one.samples(Moved(i, -step), ROWS)) / step for i in range(one.r)]
    singular = np.linalg.svd(np.stack(columns, axis=2), compute_uv=False)
    assert (singular[:, -1] > 0.01 * singular[:, 0]).all()
