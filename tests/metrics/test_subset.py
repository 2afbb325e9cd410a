"""Which of many samples are measured."""

import pytest

from manifold_core.metrics.subset import some_rows


def test_some_rows_are_from_all_over_a_table() -> None:
    """Which may be sorted. The mean of 100 numbers drawn from 0 to 9,999 is within five standard errors of 5,000."""
    drawn = some_rows(10_000, 100)
    assert len(set(drawn.tolist())) == 100
    assert drawn.tolist() == sorted(drawn.tolist()) == some_rows(10_000, 100).tolist()
    assert drawn.double().mean() == pytest.approx(5000, abs=5 * 289)
    assert some_rows(9, 9).tolist() == some_rows(9, 10).tolist() == list(range(9))
