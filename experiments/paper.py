"""The numbers that the paper prints: the one place they are kept, in ``paper_tables.json``.

What its columns mean, worked out from the numbers themselves: −ELBO and KL are printed doubled (2·L and 2·KL), Recon is
the squared error of a sample summed over its features. In Table 1, where d log(2π Recon/d) + d + KL is the −ELBO but
for rounding, it is 9 to 16 more in the rows of κ = 5, which do not fit together; and the γ printed there is not the
optimum Recon/d, which is 0.9 to 4.6 times as large.
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["WITH_AND_WITHOUT", "doubled", "matrix", "printed", "rows", "title"]

# How Tables 5 and 6 mark the columns of their two models; see `printed`.
WITH_AND_WITHOUT = (("{}_with_attention", "with attention"), ("{}_without_attention", "without attention"))
NUMBERS = ("AD", "neg_elbo", "recon", "kl", "gamma")


@cache
def _tables() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files(__package__) / "paper_tables.json").read_text(encoding="utf-8"))
    return content


def doubled(nats: float) -> float:
    """−ELBO or KL as the paper prints it."""
    return 2 * nats


def rows(table: str, **where: Any) -> list[dict[str, Any]]:
    """The rows of a table such as ``"table1"``, as column → number, whose columns equal those in ``where``.

    Raises:
        KeyError: no such table or column.
    """
    content = _tables()[table]
    named = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    return [row for row in named if all(row[column] == value for column, value in where.items())]


def title(table: str) -> str:
    """What the table shows, in our words."""
    words: str = _tables()[table]["title"]
    return words


def printed(
    table: str, key: Sequence[str], variants: Sequence[tuple[str, str]] = (("{}", ""),)
) -> list[dict[str, Any]]:
    """The rows as result files have them: cell, variant, and the numbers under their plain names.

    Args:
        key: the columns that make the cell.
        variants: for rows of several models, pairs of what marks the columns of a model and its variant:
            ``("vae_{}", "VAE")`` reads ``vae_AD`` as the VAE's AD.
    """
    found = []
    for row in rows(table):
        cell = {name: row[name] for name in key}
        for pattern, variant in variants:
            numbers = {name: row[pattern.format(name)] for name in NUMBERS if pattern.format(name) in row}
            found.append({"cell": cell, "variant": variant} | numbers)
    return found


def matrix(table: str) -> list[list[float]]:
    """The variances that Table 10 or 11 prints, row by row.

    Raises:
        KeyError: no such table, or not a matrix.
    """
    values: list[list[float]] = _tables()[table]["values"]
    return values
