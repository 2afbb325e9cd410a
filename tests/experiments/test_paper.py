"""The paper's numbers: what they mean, checked on the numbers themselves."""

import math
from decimal import Decimal

import pytest
from manifold_core.experiments import paper


@pytest.mark.parametrize("row", paper.rows("table1", kappa=20), ids=lambda row: f"d{row['d']}-r{row['r']}")
def test_columns_of_table_1_satisfy_the_doubled_elbo_at_the_best_gamma(row: dict[str, float]) -> None:
    d, recon = row["d"], row["recon"]
    neg_elbo = d * math.log(2 * math.pi * recon / d) + d + row["kl"]
    last_digit = 10.0 ** Decimal(str(recon)).as_tuple().exponent  # half of it, at most, was lost in print
    assert neg_elbo == pytest.approx(row["neg_elbo"], abs=d * 0.5 * last_digit / recon + 0.1)


def test_rows_are_chosen_by_their_columns() -> None:
    (row,) = paper.rows("table1", kappa=20, d=20, r=6)
    assert (row["AD"], row["neg_elbo"]) == (6, -43.75)
    assert len(paper.rows("table1")) == 18
    with pytest.raises(KeyError):
        paper.rows("table99")
